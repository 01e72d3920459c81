import { written } from "../../marks/numbers";
import { TokenText } from "../../marks/TokenText";
import type { Edit, PatchRun } from "../../wire/patch";
import { copyText, runnable } from "../common/exports";
import { percent } from "../common/format";
import { Part } from "../common/Part";
import { useRoot } from "../common/root";
import { describe, inForce, keyOf, toggled, without } from "./edits";
import { inUnits } from "./Numbers";
import type { PatchState } from "./state";

/** The patches that were picked; those that are on act together. */
export function List({ state }: { state: PatchState }) {
  const { timeline, session } = state;
  const edits = session.traits.edits.value;
  return (
    <Part class="ll-list" aria-label="Patches">
      <header class="ll-bar-head">
        <h3>Patches</h3>
        <span class="ll-grow" />
        <button
          type="button"
          class="ll-icon"
          aria-label="Undo"
          title="Undo (Ctrl+Z)"
          disabled={!timeline.canUndo.value}
          onClick={() => state.undo()}
        >
          ↶
        </button>
        <button
          type="button"
          class="ll-icon"
          aria-label="Redo"
          title="Redo (Ctrl+Shift+Z)"
          disabled={!timeline.canRedo.value}
          onClick={() => state.redo()}
        >
          ↷
        </button>
        <CopyList state={state} edits={edits} />
        <button type="button" disabled={edits.length === 0} onClick={() => state.setEdits([])}>
          Clear
        </button>
      </header>
      {edits.length === 0 ? (
        <p class="ll-note">
          None yet. Drag from a cell to another, or press Enter on a cell, move, and Enter again; A
          adds the selected cell.
        </p>
      ) : (
        <ol>
          {edits.map((edit, i) => (
            <Item key={keyOf([edit])} state={state} edit={edit} index={i} />
          ))}
        </ol>
      )}
    </Part>
  );
}

function Item({ state, edit, index }: { state: PatchState; edit: Edit; index: number }) {
  const { what, from } = describe(edit, state.data.value);
  const { edits } = state.session.traits;
  return (
    <li class={edit.on ? "" : "ll-off"}>
      <label>
        <input
          type="checkbox"
          checked={edit.on}
          onChange={() => state.setEdits(toggled(edits.peek(), index))}
        />
        <span class="ll-badge" aria-hidden="true">
          {index + 1}
        </span>
        <span>
          {what} {from && <span class="ll-dim">{from}</span>}
        </span>
      </label>
      <button
        type="button"
        class="ll-icon"
        aria-label={`Remove patch ${index + 1}: ${what}`}
        title="Remove"
        onClick={() => state.setEdits(without(edits.peek(), index))}
      >
        ✕
      </button>
    </li>
  );
}

function CopyList({ state, edits }: { state: PatchState; edits: readonly Edit[] }) {
  const root = useRoot();
  const on = inForce(edits);
  const live = state.session.live.value;
  const copy = async () => {
    const { session } = state;
    try {
      const { result } = await session.rpc.request("code", { edits: on });
      const done =
        root.current &&
        (await copyText(
          runnable(session.store.peek()?.meta.setup, result as string),
          root.current,
        ));
      state.announced.value = done ? "Copied the list as Python." : "Could not copy.";
    } catch (error) {
      session.fault.value = (error as Error).message;
    }
  };
  return (
    <button
      type="button"
      disabled={!live || on.length === 0}
      title={live ? "Copy the patches that are on as Python" : "This needs a running kernel."}
      onClick={() => void copy()}
    >
      Copy
    </button>
  );
}

/** The runs of the list so far, newest first; a press brings their patches back. */
export function Runs({ state }: { state: PatchState }) {
  const { traits } = state.session;
  const runs = traits.history.value;
  const now = keyOf(inForce(traits.edits.value));
  return (
    <Part class="ll-list" aria-label="Runs">
      <header class="ll-bar-head">
        <h3>Runs</h3>
        <span class="ll-grow" />
        <button
          type="button"
          disabled={runs.length === 0}
          onClick={() => state.session.write({ history: [] })}
        >
          Clear
        </button>
      </header>
      {runs.length === 0 ? (
        <p class="ll-note">Every run of the list is kept here, to go back to.</p>
      ) : (
        <ol>
          {runs.toReversed().map((run, i) => (
            <Run
              key={runs.length - i}
              state={state}
              run={run}
              number={runs.length - i}
              now={keyOf(run.edits) === now}
            />
          ))}
        </ol>
      )}
    </Part>
  );
}

interface RunProps {
  state: PatchState;
  run: PatchRun;
  number: number;
  now: boolean;
}

function Run({ state, run, number, now }: RunProps) {
  const data = state.data.value;
  const [, text, probability] = run.top;
  const units = state.meta.value?.metric.units ?? "";
  const first = run.edits[0] ? describe(run.edits[0], data).what : "no patch";
  const more = run.edits.length > 1 ? ` + ${run.edits.length - 1} more` : "";
  return (
    <li>
      <button
        type="button"
        class="ll-run-item"
        aria-current={now ? "true" : undefined}
        title={run.edits.map((edit) => Object.values(describe(edit, data)).join(" ")).join("\n")}
        onClick={() => state.setEdits(run.edits)}
      >
        <span class="ll-num ll-id">{number}</span>
        <span class="ll-run-what">{`${first}${more}`}</span>
        <span class="ll-num" title="recovered">
          {run.recovered === null ? "–" : written(run.recovered)}
        </span>
        <span class="ll-num ll-dim" title={state.meta.value?.metric.long_name}>
          {inUnits(run.metric, units === "1" ? units : "")}
        </span>
        <span class="ll-run-top">
          <TokenText text={text} /> <span class="ll-num ll-dim">{percent(probability)}</span>
        </span>
      </button>
    </li>
  );
}
