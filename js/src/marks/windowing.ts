/** The geometry of the table: which cell is where, and which part of it can be seen. */

export interface Cell {
  point: number;
  position: number;
}

export interface GridShape {
  points: number;
  positions: number;
  transposed: boolean;
  cellWidth: number;
  rowHeight: number;
  /** Width of the row labels and height of the column labels. */
  headWidth: number;
  headHeight: number;
}

export interface Range {
  from: number;
  /** One past the last. */
  to: number;
}

export interface Place {
  area: "cell" | "row" | "column" | "corner";
  row: number;
  column: number;
}

/** Pixels; the trait on the Python side has the same lower end. */
export const MIN_CELL = 8;
export const MAX_CELL = 240;

export function clamp(value: number, low: number, high: number): number {
  return Math.min(high, Math.max(low, value));
}

export function rowCount(shape: GridShape): number {
  return shape.transposed ? shape.positions : shape.points;
}

export function columnCount(shape: GridShape): number {
  return shape.transposed ? shape.points : shape.positions;
}

/**
 * The lens point and token of a cell of the table.
 *
 * Upright, the model's own output is the top row and layers grow upwards; transposed, layers grow
 * to the right and tokens run down.
 */
export function cellAt(shape: GridShape, row: number, column: number): Cell {
  return shape.transposed
    ? { point: column, position: row }
    : { point: shape.points - 1 - row, position: column };
}

export function placeOf(shape: GridShape, cell: Cell): { row: number; column: number } {
  return shape.transposed
    ? { row: cell.position, column: cell.point }
    : { row: shape.points - 1 - cell.point, column: cell.position };
}

export function totalWidth(shape: GridShape): number {
  return shape.headWidth + columnCount(shape) * shape.cellWidth;
}

export function totalHeight(shape: GridShape): number {
  return shape.headHeight + rowCount(shape) * shape.rowHeight;
}

/** Indices of `size`-wide items that touch the span behind a fixed head. */
export function visibleRange(
  scroll: number,
  viewport: number,
  head: number,
  size: number,
  count: number,
): Range {
  const from = clamp(Math.floor(scroll / size), 0, count);
  const to = clamp(Math.ceil((scroll + viewport - head) / size), from, count);
  return { from, to };
}

/** What lies under a point of the viewport; null outside the table. */
export function hitTest(
  shape: GridShape,
  x: number,
  y: number,
  scrollLeft: number,
  scrollTop: number,
): Place | null {
  const column = Math.floor((x - shape.headWidth + scrollLeft) / shape.cellWidth);
  const row = Math.floor((y - shape.headHeight + scrollTop) / shape.rowHeight);
  const inHead = y < shape.headHeight;
  const inLabels = x < shape.headWidth;
  if (inHead && inLabels) return { area: "corner", row: -1, column: -1 };
  const columnOk = column >= 0 && column < columnCount(shape);
  const rowOk = row >= 0 && row < rowCount(shape);
  if (inHead) return columnOk ? { area: "column", row: -1, column } : null;
  if (inLabels) return rowOk ? { area: "row", row, column: -1 } : null;
  return columnOk && rowOk ? { area: "cell", row, column } : null;
}

/** The column whose right edge is within reach of the pointer in the heading; -1 if none. */
export function edgeNear(shape: GridShape, x: number, y: number, scrollLeft: number): number {
  if (y > shape.headHeight || x < shape.headWidth) return -1;
  const inside = x - shape.headWidth + scrollLeft;
  const edge = Math.round(inside / shape.cellWidth);
  if (edge < 1 || edge > columnCount(shape)) return -1;
  const reach = Math.min(4, shape.cellWidth / 4);
  return Math.abs(inside - edge * shape.cellWidth) <= reach ? edge - 1 : -1;
}

/** The smallest scroll that shows item `index` whole behind a fixed head. */
export function scrollToShow(
  index: number,
  size: number,
  head: number,
  scroll: number,
  viewport: number,
): number {
  const start = index * size;
  if (start < scroll) return start;
  const end = start + size;
  const room = viewport - head;
  return end > scroll + room ? Math.max(0, end - room) : scroll;
}
