import { useCallback } from "preact/hooks";
import { written } from "../../marks/numbers";
import type { GridElements } from "../common/canvasgrid";
import { HeatGrid } from "../common/HeatGrid";
import { HeatController } from "./controller";
import type { PatchData } from "./data";
import type { PatchState } from "./state";

/** The grid of a sweep. */
export function Grid({ state, data }: { state: PatchState; data: PatchData }) {
  state.session.version.value;
  const control = useCallback(
    (elements: GridElements) => new HeatController(state, elements),
    [state],
  );
  const columns = data.byHead ? "heads" : "tokens";
  return (
    <HeatGrid
      control={control}
      label={`Recovered by patching ${data.meta.site}: ${columns} across, layers upwards. Arrow keys move, Enter runs the patch of a cell and takes it as the source, Enter again patches from there to here.`}
      rows={data.layers}
      columns={data.columns}
      selected={state.selected.value}
      rowName={(point) => `layer ${data.meta.rows[point]}`}
      columnName={(position) => data.columnName(position)}
      read={(point, position) => readOut(data, point, position)}
    />
  );
}

function readOut(data: PatchData, point: number, position: number): string {
  if (data.guessed(point, position)) {
    return `recovered about ${written(data.estimate(point, position))}, an estimate`;
  }
  if (!data.arrived(point, position)) return "not computed yet";
  const value = data.recovered(point, position);
  return Number.isNaN(value) ? "undefined" : `recovered ${written(value)}`;
}
