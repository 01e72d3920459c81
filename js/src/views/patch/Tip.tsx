import { written } from "../../marks/numbers";
import type { Cell } from "../../marks/windowing";
import { Tip } from "../common/Tip";
import type { PatchData } from "./data";
import { inUnits, shortName } from "./Numbers";
import type { PatchState } from "./state";

/** What the patch of the cell under the pointer brings. */
export function PatchTip({ state, data }: { state: PatchState; data: PatchData }) {
  const at = state.hover.value;
  state.session.version.value;
  const { point, position } = at?.cell ?? { point: -1, position: -1 };
  const value = data.recovered(point, position);
  const drag = state.drag.value;
  if (at && (drag.kind === "dragging" || drag.kind === "picked")) {
    const name = (cell: Cell) =>
      `layer ${data.meta.rows[cell.point]} · ${data.columnName(cell.position)}`;
    return (
      <Tip at={at}>
        <span class="ll-dim">{name(drag.from)}</span>
        <span>→ {name(at.cell)}</span>
      </Tip>
    );
  }
  return (
    <Tip at={at}>
      <span class="ll-dim">
        layer {data.meta.rows[point]} · {data.columnName(position)}
      </span>
      <span class="ll-num">
        {data.guessed(point, position)
          ? `recovered ≈${written(data.estimate(point, position))}, an estimate`
          : data.arrived(point, position)
            ? `recovered ${Number.isNaN(value) ? "–" : written(value)} · ${shortName(data.meta)} ${inUnits(data.metric(point, position), data.meta.metric.units)}`
            : "not computed yet"}
      </span>
    </Tip>
  );
}
