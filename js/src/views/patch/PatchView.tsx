import { useLayoutEffect } from "preact/hooks";
import { Checks, Outcome, Progress } from "../common/Footer";
import { Header } from "../common/Header";
import { Help } from "../common/Help";
import { Lead } from "../common/Lead";
import { Legend } from "../common/Legend";
import { Picture, Shell, Waiting } from "../common/Shell";
import { isRedo, isUndo } from "../common/shortcuts";
import type { PatchData } from "./data";
import { Estimates } from "./Estimates";
import { Grid } from "./Grid";
import { GESTURES, HELP_NOTE } from "./gestures";
import { LensPart } from "./LensPart";
import { List, Runs } from "./List";
import { inUnits, metricName } from "./Numbers";
import { Pairs } from "./Pairs";
import { Prompts } from "./Prompts";
import { Side } from "./Side";
import { Switches } from "./Switches";
import type { PatchState } from "./state";
import { PatchTip } from "./Tip";

/** The patch bench. */
export function PatchView({ state }: { state: PatchState }) {
  useLayoutEffect(() => state.attach(), [state]);
  const data = state.data.value;
  return (
    <Shell state={state} label="Activation patching" onKeyDown={(event) => undoKey(state, event)}>
      <Header state={state} name="Activation patching" />
      <Prompts state={state} />
      <Outcome state={state} />
      <Help state={state} gestures={GESTURES} note={HELP_NOTE} />
      <Lead state={state} />
      {data ? (
        <>
          <Pairs state={state} data={data} />
          <Switches state={state} />
          <Facts state={state} data={data} />
          <Picture state={state}>
            <div class="ll-main">
              <Grid state={state} data={data} />
              <Side state={state} data={data} />
            </div>
            <Hint state={state} data={data} />
          </Picture>
          <div class="ll-lists">
            <List state={state} />
            <Runs state={state} />
          </div>
          <LensPart state={state} />
          <PatchTip state={state} data={data} />
        </>
      ) : (
        <>
          <Progress state={state} />
          <Waiting state={state} />
        </>
      )}
      <Checks state={state} last="cell" />
    </Shell>
  );
}

/** Which way, between which values, and how far the run is. */
function Facts({ state, data }: { state: PatchState; data: PatchData }) {
  state.session.version.value;
  const { meta } = data;
  const { units, clean, corrupt } = meta.metric;
  const best = state.busy() ? null : data.strongest();
  return (
    <div class="ll-facts-line">
      <div class="ll-facts-text">
        <p>
          <b>{meta.direction}</b>
          {best && (
            <button
              type="button"
              class="ll-link"
              title="Go to the cell whose patch changes most"
              onClick={() => state.look(best)}
            >
              strongest: layer {meta.rows[best.point]}, {data.columnName(best.position)}
            </button>
          )}
        </p>
        <p class="ll-dim">
          {metricName(meta)}: corrupted {inUnits(corrupt, units)}, clean {inUnits(clean, units)}
        </p>
        <Estimates state={state} data={data} />
      </div>
      <Progress state={state} />
      <Legend scale={state.scale.value} values={data.ends()} />
    </div>
  );
}

/** What the marks mean, and what can be done next. */
function Hint({ state, data }: { state: PatchState; data: PatchData }) {
  const drag = state.drag.value;
  const from = drag.kind === "picked" || drag.kind === "dragging" ? drag.from : null;
  return (
    <p class="ll-hint" role="status">
      {(from ?? state.selected.value) && (
        <span class="ll-marks">
          <span class="ll-mark-source">source</span>
          <span class="ll-mark-target">target</span>
          <span class="ll-mark-affected">what it can change</span>
        </span>
      )}
      {from ? (
        <b>
          Source: layer {data.meta.rows[from.point]}, {data.columnName(from.position)}. Press the
          cell that its value goes to, or move there and press Enter; Esc lets go.
        </b>
      ) : state.session.live.value ? (
        "Press a cell to run its patch; drag to another, or Enter, arrows, Enter, to patch across. ? lists all keys."
      ) : (
        "Press a cell for its numbers; arrow keys move. A patch of one’s own needs a running kernel."
      )}
    </p>
  );
}

function undoKey(state: PatchState, event: KeyboardEvent): void {
  const target = event.composedPath()[0];
  const typing =
    target instanceof HTMLTextAreaElement ||
    (target instanceof HTMLInputElement && target.type === "text");
  // In a text, these keys belong to the text.
  if (!isUndo(event) || typing) return;
  event.preventDefault();
  event.stopPropagation();
  if (isRedo(event)) state.redo();
  else state.undo();
}
