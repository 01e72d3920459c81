import type { ColorMode } from "../../wire/lens";
import { Checks } from "../common/Footer";
import { Header } from "../common/Header";
import { Help } from "../common/Help";
import { LayerSlider } from "../common/LayerSlider";
import { Lead } from "../common/Lead";
import { Legend } from "../common/Legend";
import { Picture, Shell, Waiting } from "../common/Shell";
import { Switch } from "../common/Switch";
import { pointLabel } from "../lens/data";
import { CellPopup, Preview } from "../lens/Floating";
import { Table } from "../lens/Table";
import { Layout } from "../lens/Toolbar";
import { Numbers, TopList, Where } from "../lens/TopList";
import { Trajectories } from "../lens/Trajectories";
import { GESTURES, HELP_NOTE } from "./gestures";
import { Strip } from "./Strip";
import type { GenerationState } from "./state";
import { Text } from "./Text";

const MODES: { value: ColorMode; label: string; title: string }[] = [
  { value: "written", label: "Written", title: "Probability of the token that was written" },
  { value: "probability", label: "Top", title: "Probability of the top token of each cell" },
  { value: "entropy", label: "Entropy", title: "Entropy of the distribution, in nats" },
  { value: "margin", label: "Margin", title: "Top probability minus that of the second token" },
  { value: "rank", label: "Rank", title: "Rank of the token that was written" },
  { value: "kl", label: "KL", title: "Divergence of the row from the final row, in nats" },
];

/** The whole view of a text as it is written. */
export function GenerationView({ state }: { state: GenerationState }) {
  return (
    <Shell state={state} label="Generation" onPress={(path) => closePopup(state, path)}>
      <Header state={state} name="Generation" />
      <Text state={state} />
      <Help state={state} gestures={GESTURES} note={HELP_NOTE} />
      <Lead state={state} />
      {state.data.value ? (
        <>
          <div class="ll-toolbar" role="toolbar" aria-label="Table">
            <Switch
              state={state}
              label="Colour by"
              value={state.session.traits.color.value}
              choices={MODES}
              choose={(color) => state.session.write({ color })}
            />
            <Legend scale={state.scale.value} />
            <div class="ll-tools">
              <Layout state={state} />
            </div>
          </div>
          <Picture state={state}>
            <div class="ll-main">
              <Table state={state} />
              <Side state={state} />
            </div>
            <Strip state={state} />
            <p class="ll-hint">
              Stepped line: from there on the top token stays final. Click a cell for its top
              tokens, ↳ writes on from one; arrow keys move, Enter opens, P pins, B branches, ?
              lists all.
            </p>
            <Trajectories state={state} />
          </Picture>
        </>
      ) : (
        <Waiting state={state} />
      )}
      <Checks state={state} last="token" />
      <Preview state={state} />
      <CellPopup state={state} />
    </Shell>
  );
}

/** The layer slider and, under it, what would have been written at that row. */
function Side({ state }: { state: GenerationState }) {
  const data = state.written;
  state.session.version.value;
  if (!data) return null;
  const cell = state.selected.value;
  return (
    <section class="ll-side" aria-label="What would have been written, by layer">
      <LayerSlider
        at={cell.point}
        last={data.points - 1}
        name={pointLabel(data.meta.points[cell.point] ?? "")}
        go={(point) => state.select({ ...state.selected.peek(), point })}
      />
      <Where data={data} cell={cell} />
      <TopList state={state} data={data} cell={cell} pinnable ids={false} />
      <Numbers state={state} data={data} cell={cell} />
    </section>
  );
}

/** A press outside the popup closes it. */
function closePopup(state: GenerationState, path: readonly EventTarget[]): void {
  const inside = path.some(
    (node) => node instanceof HTMLElement && node.matches(".ll-popup, .ll-table"),
  );
  if (!inside) state.popup.value = null;
}
