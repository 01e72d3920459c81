import type { ColorMode } from "../../wire/lens";
import { Checks } from "../common/Footer";
import { Header } from "../common/Header";
import { Help } from "../common/Help";
import { Lead } from "../common/Lead";
import { Legend } from "../common/Legend";
import { Picture, Shell, Waiting } from "../common/Shell";
import { Switch } from "../common/Switch";
import { CellPopup, Preview } from "../lens/Floating";
import { Side } from "../lens/Side";
import { Table } from "../lens/Table";
import { Layout } from "../lens/Toolbar";
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
              <Side state={state} label="What would have been written, by layer" />
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

/** A press outside the popup closes it. */
function closePopup(state: GenerationState, path: readonly EventTarget[]): void {
  const inside = path.some(
    (node) => node instanceof HTMLElement && node.matches(".ll-popup, .ll-table"),
  );
  if (!inside) state.popup.value = null;
}
