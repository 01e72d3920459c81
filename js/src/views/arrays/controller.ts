import { HeatPainter } from "../../marks/heat";
import { heatHeadHeight } from "../../marks/heatheads";
import type { Surface } from "../../marks/painter";
import {
  type Cell,
  cellAt,
  clamp,
  type GridShape,
  MAX_CELL,
  MIN_CELL,
  type Place,
} from "../../marks/windowing";
import { CanvasGrid, fittingWidth, type GridElements, ROW_HEIGHT } from "../common/canvasgrid";
import { moveKey } from "../common/movekeys";
import type { GridData } from "./grid";
import type { ArraysState } from "./state";

/** As high as the grid can be seen at once, without its heading. */
const HEIGHT = 460;
const LOWEST = 8;
const HEAD_WIDTH = 68;
const MOST_HEAD = 150;
/** About the width of a letter of a row's name. */
const LETTER = 6.4;
const UPRIGHT_HEAD = 54;
const LEVEL_HEAD = 36;
/** The widths of columns: of numbers, and of words. */
const MOST_NUMBER = 64;
const MOST_WORD = 112;
const LEAST_WORD = 18;

const NO_MARKS = { source: null, target: null, reach: null, listed: [] };

/** Two axes of an array as cells: what is drawn of them, and what their gestures mean. */
export class ArrayGrid extends CanvasGrid {
  readonly #painter: HeatPainter;

  constructor(
    private readonly state: ArraysState,
    elements: GridElements,
  ) {
    super(elements);
    this.#painter = new HeatPainter(elements.canvas);
    this.begin();
  }

  override shape(): GridShape {
    const grid = this.state.grid.value;
    const [rows, columns] = [grid?.rows ?? 0, grid?.columns ?? 0];
    const own = this.state.session.traits.cell_width.value;
    const headWidth = grid ? rowHeadWidth(grid) : HEAD_WIDTH;
    const [least, most] = grid?.worded ? [LEAST_WORD, MOST_WORD] : [MIN_CELL, MOST_NUMBER];
    const widest = grid?.square ? ROW_HEIGHT : most;
    const fitting = fittingWidth(this.room.value - headWidth, columns, least, widest);
    const cellWidth = own > 0 ? clamp(own, MIN_CELL, MAX_CELL) : fitting;
    const fits = clamp(Math.floor(HEIGHT / Math.max(1, rows)), LOWEST, ROW_HEIGHT);
    const even = grid?.square && own === 0;
    const rowHeight = even ? Math.min(fits, cellWidth) : fits;
    return {
      points: rows,
      positions: columns,
      transposed: false,
      cellWidth: even ? rowHeight : cellWidth,
      rowHeight,
      headWidth,
      headHeight: grid ? columnHeadHeight(grid, cellWidth) : LEVEL_HEAD,
    };
  }

  protected override selection(): Cell | null {
    return this.state.cell();
  }

  protected override watch(): void {
    const { state } = this;
    state.grid.value;
    state.session.version.value;
    state.palette.value;
    state.hover.value;
    state.over.value;
    this.selection();
  }

  protected override paint(surface: Omit<Surface, "shape" | "palette">): void {
    const { state } = this;
    const grid = state.grid.peek();
    if (!grid) return;
    const over = state.over.peek();
    const row =
      over === null || !grid.data.isDepth(grid.down) ? -1 : grid.data.index(grid.down, over);
    const groups = grid.data.meta.clusters[grid.array.name] ?? [];
    this.#painter.draw({
      ...surface,
      shape: this.shape(),
      palette: state.palette.peek(),
      source: grid.source(),
      scale: state.scaleOf(grid),
      selected: this.selection(),
      hover: state.hover.peek()?.cell ?? null,
      marks: NO_MARKS,
      groups: groups.map(([first, last]) => ({ first, last })),
      row: row < 0 || state.hover.peek() ? null : row,
      focused: this.focused,
    });
  }

  protected override widen(width: number): void {
    this.state.session.write({ cell_width: width }, "soon");
  }

  protected override over(cell: Cell | null): void {
    const { hover, over } = this.state;
    const old = hover.peek()?.cell;
    if (cell?.point === old?.point && cell?.position === old?.position) return;
    const grid = this.state.grid.peek();
    hover.value = cell && this.anchor(cell);
    over.value = cell && grid ? grid.layerOf(cell.point) : null;
  }

  protected override scrolled(): void {
    this.over(null);
  }

  protected override left(): void {
    this.over(null);
  }

  protected override clicked(place: Place): void {
    const grid = this.state.grid.peek();
    if (!grid) return;
    const { point, position } = cellAt(this.shape(), place.row, place.column);
    if (place.area === "row") this.state.go({ [grid.down]: point });
    else if (place.area === "column" && grid.square) this.#go(grid, { point: position, position });
    else if (place.area === "column") this.state.go({ [grid.across]: position });
    else {
      this.#go(grid, { point, position });
      this.#open(grid, { point, position });
    }
  }

  #go(grid: GridData, { point, position }: Cell, when: "now" | "soon" = "now"): void {
    this.state.go({ [grid.down]: point, [grid.across]: position }, when);
  }

  #open(grid: GridData, { point, position }: Cell): void {
    const { rows, columns } = grid.size;
    if (point < rows && position < columns)
      this.state.open(grid.array, grid.place(point, position));
  }

  protected override key(event: KeyboardEvent): void {
    const { state } = this;
    const grid = state.grid.peek();
    if (!grid) return;
    const selected = this.selection();
    const { point, position } = selected ?? { point: 0, position: 0 };
    const start = { point, position: Math.max(0, position) };
    // Means are looked at only: what is selected is an entry of both axes.
    const { rows, columns } = grid.size;
    const shape = { ...this.shape(), points: rows, positions: columns };
    const cell = moveKey(event, shape, start, this.page());
    if (cell) this.#go(grid, selected ? cell : start, "soon");
    else if (event.key === "Enter" && selected) this.#open(grid, start);
    else if (event.key === "?") state.help.value = !state.help.peek();
    else return;
    event.preventDefault();
    event.stopPropagation();
  }
}

/** Rows are named by numbers or by words, which need more room. */
function rowHeadWidth(grid: GridData): number {
  const { labels = [] } = grid.data.meta.axes[grid.down] ?? {};
  const letters = Math.max(grid.downName.length + 1, ...labels.map((label) => label.length));
  return grid.data.isDepth(grid.down)
    ? HEAD_WIDTH
    : clamp(16 + LETTER * letters, HEAD_WIDTH, MOST_HEAD);
}

function columnHeadHeight(grid: GridData, cellWidth: number): number {
  if (grid.worded) return heatHeadHeight(cellWidth, 1);
  return cellWidth < 30 && grid.square ? UPRIGHT_HEAD : LEVEL_HEAD;
}
