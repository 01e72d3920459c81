import type { GraphData } from "./data";

export const RADIUS = 5;
/** From one node of a cell to the next. */
const STEP = 15;
const MOST_IN_LINE = 6;
const GAP = 12;
const LEFT = 62;
const TOP = 14;
const BOTTOM = 26;
const LEAST_COLUMN = 46;
/** Outputs are words. */
export const OUTPUT_WIDTH = 96;
const OUTPUT_STEP = OUTPUT_WIDTH + 6;
/** Parts of a model are words, too: "heads 23.3-5". */
export const PART_WIDTH = 84;

/** Room of a node in a cell, across and up. */
function roomOf(data: GraphData, cell: readonly number[] | undefined): { x: number; y: number } {
  const isPart = cell?.[0] !== undefined && data.kind(cell[0]) === "part";
  return isPart ? { x: PART_WIDTH + 6, y: 24 } : { x: STEP, y: STEP };
}

export interface Row {
  layer: number;
  y: number;
  height: number;
}

export interface Column {
  position: number;
  /** Its middle. */
  x: number;
  width: number;
}

export interface Layout {
  width: number;
  height: number;
  /** From the answers down to the tokens. */
  rows: Row[];
  columns: Column[];
  /** The middle of each node that is drawn. */
  places: ReadonlyMap<number, { x: number; y: number }>;
}

/** Where nodes stand: a row for each layer that has any, a column for each position. */
export function layoutOf(data: GraphData, nodes: readonly number[], room: number): Layout {
  const layers = distinct(nodes, (node) => data.layer(node)).reverse();
  const positions = distinct(nodes, (node) => data.position(node));
  const cells = cellsOf(data, nodes);
  const columns = columnsOf(data, nodes, positions, cells, room);
  const places = new Map<number, { x: number; y: number }>();
  const rows: Row[] = [];
  let y = TOP;
  for (const layer of layers) {
    const height = Math.max(
      STEP,
      ...positions.map((at) => {
        const cell = cells.get(key(layer, at));
        return linesOf(cell) * roomOf(data, cell).y;
      }),
    );
    rows.push({ layer, y, height });
    for (const column of columns) {
      const cell = cells.get(key(layer, column.position)) ?? [];
      if (cell[0] !== undefined && data.kind(cell[0]) === "output") placeWords(cell, column, y);
      else placeCircles(cell, column, y);
    }
    y += height + GAP;
  }
  const last = columns.at(-1);
  const width = last ? last.x + last.width / 2 + 2 : LEFT;
  return { width, height: y + BOTTOM - GAP, rows, columns, places };

  function placeCircles(cell: readonly number[], { x }: Column, top: number): void {
    const step = roomOf(data, cell);
    cell.forEach((node, i) => {
      const line = Math.floor(i / MOST_IN_LINE);
      const inLine = Math.min(MOST_IN_LINE, cell.length - line * MOST_IN_LINE);
      const left = x - ((inLine - 1) * step.x) / 2;
      places.set(node, {
        x: left + (i % MOST_IN_LINE) * step.x,
        y: top + line * step.y + step.y / 2,
      });
    });
  }

  /** The most probable stands at the right edge of its column. */
  function placeWords(cell: readonly number[], { x, width: wide }: Column, top: number): void {
    const sorted = cell.toSorted((a, b) => data.probability(b) - data.probability(a));
    sorted.forEach((node, i) => {
      places.set(node, {
        x: x + wide / 2 - OUTPUT_WIDTH / 2 - i * OUTPUT_STEP,
        y: top + STEP / 2,
      });
    });
  }
}

/** The node beside one, in a direction that a key names; the same where there is none. */
export function beside(layout: Layout, node: number, key: string): number {
  const from = layout.places.get(node);
  if (!from) return node;
  const across = key === "ArrowLeft" || key === "ArrowRight";
  const sign = key === "ArrowLeft" || key === "ArrowUp" ? -1 : 1;
  let [best, least] = [node, Number.POSITIVE_INFINITY];
  for (const [other, at] of layout.places) {
    const [dx, dy] = [at.x - from.x, at.y - from.y];
    const [along, aside] = across ? [dx, dy] : [dy, dx];
    if (along * sign <= 0.5) continue;
    // Along a row only its own nodes count; from row to row the nearest ones.
    if (across && Math.abs(aside) > 0.5) continue;
    const far = across ? Math.abs(along) : 1e4 * Math.abs(along) + Math.abs(aside);
    if (far < least) [best, least] = [other, far];
  }
  return best;
}

function cellsOf(data: GraphData, nodes: readonly number[]): Map<string, number[]> {
  const cells = new Map<string, number[]>();
  for (const node of nodes) {
    const at = key(data.layer(node), data.position(node));
    const cell = cells.get(at) ?? [];
    cell.push(node);
    cells.set(at, cell);
  }
  for (const cell of cells.values()) cell.sort((a, b) => data.influence(b) - data.influence(a));
  return cells;
}

function columnsOf(
  data: GraphData,
  nodes: readonly number[],
  positions: readonly number[],
  cells: ReadonlyMap<string, readonly number[]>,
  room: number,
): Column[] {
  const outputs = nodes.filter((node) => data.kind(node) === "output").length;
  const needed = positions.map((position) => {
    let most = STEP;
    for (const [at, cell] of cells) {
      if (Number(at.split(",")[1]) !== position) continue;
      most = Math.max(most, roomOf(data, cell).x * Math.min(MOST_IN_LINE, cell.length));
    }
    return Math.max(LEAST_COLUMN, most + GAP);
  });
  const sum = needed.reduce((total, width) => total + width, 0);
  // Outputs reach to the left over the columns before theirs.
  const least = Math.max(sum, outputs * OUTPUT_STEP);
  const stretch = Math.max(least, room - LEFT - 4) / (sum || 1);
  let x = LEFT;
  return positions.map((position, i) => {
    const width = (needed[i] as number) * stretch;
    x += width;
    return { position, x: x - width / 2, width };
  });
}

function linesOf(cell: readonly number[] | undefined): number {
  return Math.ceil((cell?.length ?? 0) / MOST_IN_LINE);
}

function key(layer: number, position: number): string {
  return `${layer},${position}`;
}

function distinct(nodes: readonly number[], of: (node: number) => number): number[] {
  return [...new Set(nodes.map(of))].sort((a, b) => a - b);
}
