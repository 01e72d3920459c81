import { lineStyle } from "../../theme/palette";
import { layerName } from "../arrays/data";
import { LayerSlider } from "../common/LayerSlider";
import { Swatch } from "../common/Swatch";
import { Switch } from "../common/Switch";
import type { MetricsState } from "./state";

/** Which metrics, on which scale, and the layer that is read out. */
export function Toolbar({ state }: { state: MetricsState }) {
  const { session } = state;
  const { traits } = session;
  return (
    <div class="ll-toolbar ll-metrics-bar" role="toolbar" aria-label="Metrics">
      <button
        type="button"
        class="ll-pick"
        aria-expanded={state.picking.value}
        aria-pressed={state.picking.value}
        title="Pick metrics from a list that says what each means (M)"
        onClick={() => {
          state.picking.value = !state.picking.peek();
        }}
      >
        Metrics ({state.chosen().length})
      </button>
      <Switch
        label="Scale of the value axes"
        value={traits.scale.value}
        choices={[
          { value: "linear", label: "linear" },
          { value: "log", label: "log", title: "Where all values are positive" },
        ]}
        choose={(scale) => session.write({ scale })}
      />
      <Overlay state={state} />
      <span class="ll-grow" />
      {!traits.linked.value && <Layer state={state} />}
    </div>
  );
}

/** Both models by name and line; the second one can be taken off. */
function Overlay({ state }: { state: MetricsState }) {
  const meta = state.meta.value;
  if (!meta?.other) return null;
  const { overlay } = state.session.traits;
  const dim = state.palette.value.dim;
  return (
    <div class="ll-models">
      <span>
        <Swatch style={{ ...lineStyle(0), color: dim, dash: [] }} /> {meta.model}
      </span>
      <label title={`${meta.other.model}, ${meta.other.n_layers} layers`}>
        <input
          type="checkbox"
          checked={overlay.value}
          onChange={(event) => state.session.write({ overlay: event.currentTarget.checked })}
        />
        <Swatch style={{ color: dim, dash: [7, 4] }} /> {meta.other.label}
      </label>
    </div>
  );
}

function Layer({ state }: { state: MetricsState }) {
  const meta = state.meta.value;
  if (!meta) return null;
  const read = state.read.value;
  const name = read === null ? "no layer" : layerName(read);
  return (
    <LayerSlider
      at={Math.max(0, state.selected() ?? 0)}
      last={state.places.value.at(-1) || meta.n_layers - 1}
      name={name}
      go={(layer) => state.select(layer)}
    />
  );
}
