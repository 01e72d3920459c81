import { type Cell, cellAt, clamp, type GridShape, placeOf } from "../../marks/windowing";

export interface KeyPress {
  key: string;
  ctrlKey: boolean;
  metaKey: boolean;
  altKey: boolean;
}

/** Where a key moves the selected cell; null when it does not. `page` is the rows seen at once. */
export function moveKey(
  press: KeyPress,
  shape: GridShape,
  selected: Cell,
  page: number,
): Cell | null {
  if (press.metaKey || press.altKey) return null;
  const rows = shape.transposed ? shape.positions : shape.points;
  const columns = shape.transposed ? shape.points : shape.positions;
  const { row, column } = placeOf(shape, selected);
  const ways: Record<string, [row: number, column: number]> = press.ctrlKey
    ? { Home: [0, 0], End: [rows - 1, columns - 1] }
    : {
        ArrowUp: [row - 1, column],
        ArrowDown: [row + 1, column],
        ArrowLeft: [row, column - 1],
        ArrowRight: [row, column + 1],
        Home: [row, 0],
        End: [row, columns - 1],
        PageUp: [row - page, column],
        PageDown: [row + page, column],
      };
  if (!Object.hasOwn(ways, press.key)) return null;
  const [toRow, toColumn] = ways[press.key] as [number, number];
  return cellAt(shape, clamp(toRow, 0, rows - 1), clamp(toColumn, 0, columns - 1));
}
