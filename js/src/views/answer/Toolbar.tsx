import { compact } from "../../marks/numbers";
import { layerName } from "../arrays/data";
import { LayerSlider } from "../common/LayerSlider";
import { Switch } from "../common/Switch";
import type { AnswerState } from "./state";

/** The options that were asked with, the scale of curves, doses, and the layer that is read out. */
export function Toolbar({ state, slider = true }: { state: AnswerState; slider?: boolean }) {
  const { session } = state;
  const { traits } = session;
  const curves = state.panels.value.length > 0;
  return (
    <div class="ll-toolbar ll-answer-bar" role="toolbar" aria-label="Answer">
      <Options options={traits.options.value} />
      {curves && (
        <Switch
          label="Scale of the value axes"
          value={traits.scale.value}
          choices={[
            { value: "linear", label: "linear" },
            { value: "log", label: "log", title: "Where all values are positive" },
          ]}
          choose={(scale) => session.write({ scale })}
        />
      )}
      <span class="ll-grow" />
      <Doses state={state} />
      {slider && !traits.linked.value && <Layer state={state} />}
    </div>
  );
}

/** What was asked for by name; to look at only, for the code says how it is changed. */
function Options({ options }: { options: Record<string, unknown> }) {
  const given = Object.entries(options).filter(([, value]) => value !== null);
  if (given.length === 0) return null;
  return (
    <ul class="ll-options-given" aria-label="Options">
      {given.map(([name, value]) => (
        <li key={name} title={`${name} = ${written(value)}`}>
          {name} = {written(value)}
        </li>
      ))}
    </ul>
  );
}

/** A value as Python writes it. */
function written(value: unknown): string {
  if (typeof value === "boolean") return value ? "True" : "False";
  if (value === null) return "None";
  if (Array.isArray(value)) return `[${value.map(written).join(", ")}]`;
  if (typeof value !== "object") return JSON.stringify(value);
  const pairs = Object.entries(value).map(([name, one]) => `"${name}": ${written(one)}`);
  return `{${pairs.join(", ")}}`;
}

/** A slider for each thing that is dosed. */
function Doses({ state }: { state: AnswerState }) {
  const { live } = state.session;
  const doses = state.meta.value?.doses ?? [];
  return (
    <>
      {doses.map((dose) => {
        // An option asks again, which takes a kernel.
        if ((!dose.dim && !live.value) || dose.values.length < 2) return null;
        const at = state.dosed(dose);
        return (
          <span class="ll-dose" key={dose.option + dose.dim}>
            <span class="ll-dim">{dose.label}</span>
            <LayerSlider
              label={dose.label}
              at={at}
              last={dose.values.length - 1}
              name={compact(dose.values[at] ?? Number.NaN)}
              go={(index) => state.dose(dose, index)}
            />
          </span>
        );
      })}
    </>
  );
}

function Layer({ state }: { state: AnswerState }) {
  const { value: data } = state.data;
  const layered = data && Object.keys(data.meta.axes).some((dim) => data.isDepth(dim));
  if (!data || !layered) return null;
  const read = state.read.value;
  return (
    <LayerSlider
      at={Math.max(0, state.selected() ?? 0)}
      last={state.places.value.at(-1) || data.meta.n_layers - 1}
      name={read === null ? "no layer" : layerName(read)}
      go={(layer) => state.select(layer)}
    />
  );
}

/** What is chosen of the grid: means at its ends, and which axis is cut where there are three. */
export function Means({ state }: { state: AnswerState }) {
  const { means } = state.session.traits;
  const grid = state.grid.value;
  if (!grid) return null;
  const { dims, third = dims[2] ?? "" } = grid.array;
  return (
    <>
      {dims.length === 3 && (
        <select
          aria-label="Axis that is not drawn"
          title="Which axis is not drawn; one of its entries is shown"
          value={state.third() || third}
          onChange={(event) => state.session.write({ third: event.currentTarget.value, entry: 0 })}
        >
          {dims.map((dim) => (
            <option key={dim} value={dim}>
              one {grid.data.axisName(dim)} at a time
            </option>
          ))}
        </select>
      )}
      <button
        type="button"
        aria-pressed={means.value}
        title="Means of rows and columns at their ends"
        onClick={() => state.session.write({ means: !means.value })}
      >
        Means
      </button>
    </>
  );
}
