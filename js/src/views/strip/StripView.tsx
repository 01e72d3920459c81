import { Cell } from "../answer/Cell";
import { HELP_NOTE } from "../answer/gestures";
import { Texts } from "../answer/Texts";
import { Toolbar } from "../answer/Toolbar";
import { capital, titleOf } from "../arrays/grouping";
import { Panels } from "../arrays/Panels";
import { Reader } from "../arrays/Reader";
import { Singles } from "../arrays/Singles";
import { Checks } from "../common/Footer";
import { Header } from "../common/Header";
import { Help } from "../common/Help";
import { LayerSlider } from "../common/LayerSlider";
import { Lead } from "../common/Lead";
import { Picture, Shell, Waiting } from "../common/Shell";
import { Switch } from "../common/Switch";
import { Terms } from "../common/Term";
import type { StripData } from "./data";
import { GESTURES } from "./gestures";
import { Strips } from "./Strips";
import type { StripState } from "./state";

/** The text in colours with a slider through the layers, and below it the answer's curves. */
export function StripView({ state }: { state: StripState }) {
  const strip = state.strip.value;
  const data = state.data.value;
  const name = nameOf(state);
  return (
    <Shell state={state} label={name} onKeyDown={(event) => closeKey(state, event)}>
      <Header state={state} name={name} />
      <Texts state={state} />
      <Help state={state} gestures={GESTURES} note={HELP_NOTE} />
      <Lead state={state} />
      {strip && data ? (
        <Picture state={state}>
          <Bar state={state} data={strip} />
          <Beside state={state} data={strip} />
          <Strips state={state} data={strip} />
          <Cell state={state} />
          <Toolbar state={state} slider={false} />
          <Panels state={state} data={data} />
          <Singles state={state} data={data} />
          <Undrawn data={strip} />
          <details class="ll-figures">
            <summary>All curves as tables</summary>
            <div class="ll-scrolled">
              <Reader state={state} data={data} />
            </div>
          </details>
        </Picture>
      ) : (
        <Waiting state={state} />
      )}
      <Checks state={state} last="part" />
    </Shell>
  );
}

/** The slider through the layers, and how far colours reach. */
function Bar({ state, data }: { state: StripState; data: StripData }) {
  const { colors } = state.own.traits;
  const step = state.drawnStep.value;
  return (
    <div class="ll-strip-bar">
      <LayerSlider
        at={step}
        last={data.arrays.size(data.steps) - 1}
        name={state.stepName(step)}
        go={(to) => state.goStep(to)}
      />
      <span class="ll-grow" />
      <span class="ll-dim">Colours reach</span>
      <Switch
        label="Colours reach"
        value={colors.value}
        choices={[
          { value: "one", label: "this layer", title: "To the largest number of this layer" },
          { value: "all", label: "all layers", title: "The same colours throughout" },
        ]}
        choose={(value) => state.own.write({ colors: value })}
      />
    </div>
  );
}

/** What is known of the depth as a whole: sums, what a rule loses, controls. */
function Beside({ state, data }: { state: StripState; data: StripData }) {
  const step = state.drawnStep.value;
  return data.sides().map((arrays) => (
    <dl
      key={arrays[0]?.name}
      class="ll-strip-beside"
      aria-label={`All tokens at ${state.stepName(step)}`}
    >
      {arrays.map((array) => (
        <div key={array.name}>
          <dt>
            <Terms state={state} text={capital(titleOf(array, data.meta))} />
          </dt>
          <dd class="ll-num">{data.said(array, data.arrays.at(array.name, step))}</dd>
        </div>
      ))}
    </dl>
  ));
}

/** Names of what neither strips nor curves show. */
function Undrawn({ data: { meta } }: { data: StripData }) {
  const left = meta.arrays.filter(({ dims, dtype }) => dims.length > 2 || dtype === "token");
  if (left.length === 0) return null;
  const names = left.map(({ long_name }) => long_name).join("; ");
  return <p class="ll-note">Not drawn here, but in a view of grids: {names}.</p>;
}

function nameOf(state: StripState): string {
  const { analysis_name } = state.session.traits;
  return capital((analysis_name.value || (state.meta.value?.analysis ?? "")).replaceAll("_", " "));
}

/** Escape closes what a token has opened. */
function closeKey(state: StripState, event: KeyboardEvent): void {
  if (event.key !== "Escape" || !state.opened.peek()) return;
  state.close();
  event.preventDefault();
  event.stopPropagation();
}
