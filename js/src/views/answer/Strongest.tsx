import { compact } from "../../marks/numbers";
import type { AnswerState } from "./state";

/** The cell that says most, and a press that goes there. */
export function Strongest({ state }: { state: AnswerState }) {
  state.session.version.value;
  const grid = state.grid.value;
  // Whole numbers count or name things, and are not strong or weak.
  const cell = grid?.array.dtype === "float" ? grid.strongest(state.centreOf(grid)) : null;
  if (!grid || !cell) return null;
  const { point, position } = cell;
  const here = state.cell();
  if (here?.point === point && here.position === position) return null;
  return (
    <p class="ll-dim">
      Strongest:{" "}
      <button
        type="button"
        class="ll-link"
        title="Select this cell"
        onClick={() => state.go({ [grid.down]: point, [grid.across]: position })}
      >
        {grid.cellName(point, position)}
      </button>{" "}
      <span class="ll-num">{compact(grid.value(point, position))}</span>
    </p>
  );
}
