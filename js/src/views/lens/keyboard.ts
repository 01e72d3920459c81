import { type Cell, cellAt, clamp, type GridShape, placeOf } from "../../marks/windowing";

export type KeyAction =
  | { kind: "move"; cell: Cell }
  | { kind: "open" }
  | { kind: "pin" }
  | { kind: "close" }
  | { kind: "help" };

export interface KeyPress {
  key: string;
  ctrlKey: boolean;
  metaKey: boolean;
  altKey: boolean;
}

/** What a key does in the table; null leaves it to the page. `page` is the rows seen at once. */
export function keyAction(
  press: KeyPress,
  shape: GridShape,
  selected: Cell,
  page: number,
): KeyAction | null {
  if (press.metaKey || press.altKey) return null;
  const rows = shape.transposed ? shape.positions : shape.points;
  const columns = shape.transposed ? shape.points : shape.positions;
  const { row, column } = placeOf(shape, selected);
  const move = (toRow: number, toColumn: number): KeyAction => ({
    kind: "move",
    cell: cellAt(shape, clamp(toRow, 0, rows - 1), clamp(toColumn, 0, columns - 1)),
  });
  if (press.ctrlKey) {
    if (press.key === "Home") return move(0, 0);
    if (press.key === "End") return move(rows - 1, columns - 1);
    return null;
  }
  switch (press.key) {
    case "ArrowUp":
      return move(row - 1, column);
    case "ArrowDown":
      return move(row + 1, column);
    case "ArrowLeft":
      return move(row, column - 1);
    case "ArrowRight":
      return move(row, column + 1);
    case "Home":
      return move(row, 0);
    case "End":
      return move(row, columns - 1);
    case "PageUp":
      return move(row - page, column);
    case "PageDown":
      return move(row + page, column);
    case "Enter":
    case " ":
      return { kind: "open" };
    case "p":
    case "P":
      return { kind: "pin" };
    case "Escape":
      return { kind: "close" };
    case "?":
      return { kind: "help" };
    default:
      return null;
  }
}
