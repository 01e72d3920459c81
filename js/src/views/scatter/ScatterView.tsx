import { HELP_NOTE } from "../answer/gestures";
import { Texts } from "../answer/Texts";
import { Toolbar } from "../answer/Toolbar";
import { Panels } from "../arrays/Panels";
import { Reader } from "../arrays/Reader";
import { Checks } from "../common/Footer";
import { Header } from "../common/Header";
import { Help } from "../common/Help";
import { LayerSlider } from "../common/LayerSlider";
import { Lead } from "../common/Lead";
import { Picture, Shell, Waiting } from "../common/Shell";
import { Switch } from "../common/Switch";
import type { ScatterData } from "./data";
import { GESTURES } from "./gestures";
import { Labels } from "./Labels";
import { Pictures } from "./Pictures";
import type { ScatterState } from "./state";

/** Marks in a plane with a slider through the layers, and below them the answer's curves. */
export function ScatterView({ state }: { state: ScatterState }) {
  const scatter = state.scatter.value;
  const data = state.data.value;
  const name = nameOf(state);
  return (
    <Shell state={state} label={name} onKeyDown={(event) => closeKey(state, event)}>
      <Header state={state} name={name} />
      <Texts state={state} />
      <Help state={state} gestures={GESTURES} note={HELP_NOTE} />
      <Lead state={state} />
      {scatter && data ? (
        <Picture state={state}>
          <Bar state={state} data={scatter} />
          <Labels state={state} data={scatter} />
          <Pictures state={state} data={scatter} />
          <Toolbar state={state} slider={false} />
          <Panels state={state} data={data} />
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

/** The slider through the layers, and what the axes hold. */
function Bar({ state, data }: { state: ScatterState; data: ScatterData }) {
  const { axes } = state.own.traits;
  const step = state.drawnStep.value;
  const name = state.data.value?.axisName(data.meta.scatter.steps) ?? "";
  const depth = state.data.value?.role(data.meta.scatter.steps) === "layer";
  return (
    <div class="ll-scatter-bar">
      <LayerSlider
        label={depth ? "Layer" : name}
        at={step}
        last={data.steps - 1}
        name={state.stepName(step)}
        go={(to) => state.goStep(to)}
      />
      <span class="ll-grow" />
      <span class="ll-dim">Axes hold</span>
      <Switch
        label="Axes hold"
        value={axes.value}
        choices={[
          { value: "all", label: depth ? "all layers" : "all", title: "The same axes throughout" },
          { value: "one", label: "this one", title: "As near as these marks allow" },
        ]}
        choose={(value) => state.own.write({ axes: value })}
      />
    </div>
  );
}

function nameOf(state: ScatterState): string {
  const { analysis_name } = state.session.traits;
  const words = (analysis_name.value || (state.meta.value?.analysis ?? "")).replaceAll("_", " ");
  return words.charAt(0).toUpperCase() + words.slice(1);
}

/** Escape looks at no mark. */
function closeKey(state: ScatterState, event: KeyboardEvent): void {
  if (event.key !== "Escape" || state.own.traits.item.peek() < 0) return;
  state.choose(-1);
  event.preventDefault();
  event.stopPropagation();
}
