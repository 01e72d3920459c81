import { HeatPainter } from "../../marks/heat";
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
import { GridData } from "./grid";
import type { MetricsState } from "./state";

/** As high as the grid can be seen at once, without its heading. */
const HEIGHT = 460;
const LOWEST = 8;
const HEAD_WIDTH = 68;
const UPRIGHT_HEAD = 54;
const LEVEL_HEAD = 36;

const NO_MARKS = { source: null, target: null, reach: null, listed: [] };

/** A matrix or a head grid: what is drawn of it, and what its gestures mean. */
export class MetricGrid extends CanvasGrid {
  readonly #painter: HeatPainter;

  constructor(
    private readonly state: MetricsState,
    elements: GridElements,
  ) {
    super(elements);
    this.#painter = new HeatPainter(elements.canvas);
    this.begin();
  }

  #grid(): GridData | null {
    const data = this.state.data.value;
    const array = this.state.grid.value;
    return data && array ? new GridData(data, array, this.state.entry.value) : null;
  }

  override shape(): GridShape {
    const grid = this.#grid();
    const [rows, columns] = [grid?.rows ?? 0, grid?.columns ?? 0];
    const own = this.state.session.traits.cell_width.value;
    const most = grid?.square ? ROW_HEIGHT : 64;
    const fitting = fittingWidth(this.room.value - HEAD_WIDTH, columns, MIN_CELL, most);
    const cellWidth = own > 0 ? clamp(own, MIN_CELL, MAX_CELL) : fitting;
    const fits = clamp(Math.floor(HEIGHT / Math.max(1, rows)), LOWEST, ROW_HEIGHT);
    const rowHeight = grid?.square && own === 0 ? Math.min(fits, cellWidth) : fits;
    return {
      points: rows,
      positions: columns,
      transposed: false,
      cellWidth: grid?.square && own === 0 ? rowHeight : cellWidth,
      rowHeight,
      headWidth: HEAD_WIDTH,
      headHeight: cellWidth < 30 && grid?.square ? UPRIGHT_HEAD : LEVEL_HEAD,
    };
  }

  protected override selection(): Cell | null {
    const { layer, head } = this.state.session.traits;
    return this.#grid()?.cellOf(layer.value, head.value, this.state.column.value) ?? null;
  }

  protected override watch(): void {
    const { state } = this;
    state.session.version.value;
    state.palette.value;
    state.hover.value;
    state.over.value;
    this.selection();
  }

  protected override paint(surface: Omit<Surface, "shape" | "palette">): void {
    const { state } = this;
    const grid = this.#grid();
    if (!grid) return;
    const over = state.over.peek();
    const row = over === null ? -1 : grid.data.index(grid.down, over);
    const groups = grid.data.meta.clusters[grid.array.name] ?? [];
    this.#painter.draw({
      ...surface,
      shape: this.shape(),
      palette: state.palette.peek(),
      source: grid.source(),
      scale: grid.scale(state),
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
    const grid = this.#grid();
    hover.value = cell && this.anchor(cell);
    over.value = cell && grid ? grid.data.number(grid.down, cell.point) : null;
  }

  protected override scrolled(): void {
    this.over(null);
  }

  protected override left(): void {
    this.over(null);
  }

  protected override clicked(place: Place): void {
    const from = this.selection();
    const { point, position } = cellAt(this.shape(), place.row, place.column);
    const square = this.#grid()?.square ?? false;
    if (place.area === "cell") this.#go({ point, position }, "now");
    else if (place.area === "row") this.#go({ point, position: from?.position ?? -1 }, "now");
    else if (square) this.#go({ point: position, position }, "now");
    else if (this.#grid()?.byHead) {
      this.state.session.write({ head: this.#grid()?.data.number("head", position) ?? -1 });
    } else this.state.column.value = position;
  }

  #go({ point, position }: Cell, when: "now" | "soon"): void {
    const grid = this.#grid();
    if (!grid) return;
    const layer = grid.data.number(grid.down, point);
    if (grid.square) {
      this.state.column.value = position;
      this.state.select(layer, when);
    } else if (!grid.byHead) {
      if (position >= 0) this.state.column.value = position;
      this.state.select(layer, when);
    } else {
      const head = grid.data.number(grid.across, position);
      this.state.session.write(position < 0 ? { layer } : { layer, head }, when);
    }
  }

  protected override key(event: KeyboardEvent): void {
    const { state } = this;
    const from = this.selection() ?? { point: 0, position: 0 };
    const start = { point: from.point, position: Math.max(0, from.position) };
    const cell = moveKey(event, this.shape(), start, this.page());
    if (cell) this.#go(this.selection() ? cell : start, "soon");
    else if (event.key === "?") state.help.value = !state.help.peek();
    else return;
    event.preventDefault();
    event.stopPropagation();
  }
}
