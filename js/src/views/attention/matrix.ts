import { MatrixPainter } from "../../marks/matrix";
import type { Surface } from "../../marks/painter";
import { type Cell, clamp, type GridShape, MAX_CELL, type Place } from "../../marks/windowing";
import { CanvasGrid, fittingWidth, type GridElements } from "../common/canvasgrid";
import { moveKey } from "../common/movekeys";
import type { Frame } from "./frame";
import { rootKey } from "./keyboard";

/** A cell may be as small as this, and as large where there is room. */
const LEAST = 3;
const MOST = 24;
const HEAD_WIDTH = 104;
const HEAD_HEIGHT = 92;

/** The matrix of one square: what is drawn of it, and what its gestures mean. */
export class MatrixGrid extends CanvasGrid {
  readonly #painter: MatrixPainter;

  constructor(
    private readonly frame: Frame,
    elements: GridElements,
  ) {
    super(elements);
    this.#painter = new MatrixPainter(elements.canvas);
    this.begin();
  }

  override shape(): GridShape {
    const { frame } = this;
    const [queries, keys] = [frame.queries.length, frame.keys.length];
    const own = frame.state.session.traits.cell_width.value;
    const room = frame.room(this.room.value) - HEAD_WIDTH;
    const size = own > 0 ? clamp(own, LEAST, MAX_CELL) : fittingWidth(room, keys, LEAST, MOST);
    return {
      points: keys,
      positions: queries,
      transposed: true,
      cellWidth: size,
      rowHeight: Math.min(size, MOST),
      headWidth: HEAD_WIDTH,
      headHeight: HEAD_HEIGHT,
    };
  }

  protected override selection(): Cell | null {
    const { query, key } = this.frame.cursor();
    return query < 0 || key < 0 ? null : { point: key, position: query };
  }

  protected override watch(): void {
    const { frame } = this;
    frame.square.value;
    frame.state.palette.value;
    frame.state.hover.value;
    frame.state.session.traits.pins.value;
    frame.state.scale(frame.shows);
    this.selection();
  }

  protected override paint(surface: Omit<Surface, "shape" | "palette">): void {
    const { frame } = this;
    const hover = frame.state.hover.peek();
    this.#painter.draw({
      ...surface,
      shape: this.shape(),
      palette: frame.state.palette.peek(),
      image: frame.image(),
      names: frame.names,
      selected: this.selection(),
      hover: hover && { point: hover.key, position: hover.query },
      pinned: frame.state.pinned(),
      focused: this.focused,
    });
  }

  protected override widen(width: number): void {
    this.frame.state.session.write({ cell_width: width }, "soon");
  }

  protected override over(cell: Cell | null): void {
    this.frame.point(cell && { query: cell.position, key: cell.point }, cell && this.anchor(cell));
  }

  protected override left(): void {
    this.frame.point(null, null);
  }

  protected override scrolled(): void {
    this.frame.point(null, null);
  }

  protected override clicked({ area, row, column }: Place): void {
    const { state } = this.frame;
    if (area === "row") state.togglePin(row, "query");
    else if (area === "column") state.togglePin(column, "key");
    else state.look({ query: row, key: column }, "now");
  }

  protected override key(event: KeyboardEvent): void {
    const { frame } = this;
    if (rootKey(event, frame.state)) return;
    const { query, key } = frame.cursor();
    const start = { point: Math.max(0, key), position: Math.max(0, query) };
    const cell = moveKey(event, this.shape(), start, this.page());
    if (cell) {
      const to = query < 0 || key < 0 ? start : cell;
      frame.state.look({ query: to.position, key: to.point });
    } else if (event.key === "Enter" || event.key === " ") {
      frame.state.togglePin(start.position, "query");
    } else return;
    event.preventDefault();
    event.stopPropagation();
  }
}
