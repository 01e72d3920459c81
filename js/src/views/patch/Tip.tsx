import { written } from "../../marks/numbers";
import { useFloating } from "../common/floating";
import type { PatchData } from "./data";
import { inUnits, shortName } from "./Numbers";
import type { PatchState } from "./state";

/** The numbers of the cell under the pointer; columns may be too narrow for them. */
export function Tip({ state, data }: { state: PatchState; data: PatchData }) {
  const at = state.hover.value;
  state.session.version.value;
  const box = useFloating(at);
  if (!at) return null;
  const { point, position } = at.cell;
  const value = data.recovered(point, position);
  return (
    <div class="ll-float ll-preview ll-tip" ref={box} role="tooltip">
      <span class="ll-dim">
        layer {data.meta.rows[point]} · {data.columnName(position)}
      </span>
      <span class="ll-num">
        {data.arrived(point, position)
          ? `recovered ${Number.isNaN(value) ? "–" : written(value)} · ${shortName(data.meta)} ${inUnits(data.metric(point, position), data.meta.metric.units)}`
          : "not computed yet"}
      </span>
    </div>
  );
}
