import { LinksPainter } from "../../marks/links";
import type { Surface } from "../../marks/painter";
import type { Cell, GridShape, Place } from "../../marks/windowing";
import { CanvasGrid, type GridElements } from "../common/canvasgrid";
import { moveKey } from "../common/movekeys";
import type { Frame } from "./frame";
import { rootKey } from "./keyboard";
import type { Spot } from "./state";

const ROW = 20;

/** Two columns of tokens and the lines between them: what is drawn, and what its gestures mean. */
export class LinesGrid extends CanvasGrid {
  readonly #painter: LinksPainter;

  constructor(
    private readonly frame: Frame,
    elements: GridElements,
  ) {
    super(elements);
    this.#painter = new LinksPainter(elements.canvas);
    this.begin();
    // Where the keyboard stood is not looked at any more.
    const leave = () => this.left();
    elements.scroller.addEventListener("blur", leave);
    this.stop.push(() => elements.scroller.removeEventListener("blur", leave));
  }

  /** Two columns, queries and keys, that are scrolled together. */
  override shape(): GridShape {
    const { queries, keys } = this.frame;
    return {
      points: 2,
      positions: Math.max(queries.length, keys.length),
      transposed: true,
      cellWidth: Math.floor(this.frame.linesWidth(this.room.value) / 2),
      rowHeight: ROW,
      headWidth: 0,
      headHeight: 0,
    };
  }

  protected override selection(): Cell | null {
    const { query, key } = this.frame.cursor();
    const onKeys = this.frame.state.side.value === "key";
    const position = onKeys ? key : query;
    return position < 0 ? null : { point: onKeys ? 1 : 0, position };
  }

  protected override watch(): void {
    const { frame } = this;
    frame.square.value;
    frame.state.palette.value;
    frame.state.isolated();
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
      square: frame.square.peek(),
      most: frame.most(),
      names: frame.names,
      isolated: frame.state.isolated(),
      pinned: frame.state.pinned(),
      selected: this.focused ? this.selection() : null,
      hover: hover && cellOf(hover),
      focused: this.focused,
    });
  }

  protected override widen(): void {}

  protected override over(cell: Cell | null): void {
    const spot = cell && this.#spot(cell);
    this.frame.point(spot, null);
  }

  protected override left(): void {
    this.frame.point(null, null);
  }

  protected override clicked({ row, column }: Place): void {
    this.#pin({ point: column, position: row });
  }

  #spot({ point, position }: Cell): Spot | null {
    const count = (point === 0 ? this.frame.queries : this.frame.keys).length;
    if (position >= count) return null;
    return point === 0 ? { query: position, key: -1 } : { query: -1, key: position };
  }

  #pin(cell: Cell): void {
    if (this.#spot(cell)) this.frame.state.togglePin(cell.position, cell.point ? "key" : "query");
  }

  protected override key(event: KeyboardEvent): void {
    const { frame } = this;
    if (rootKey(event, frame.state)) return;
    const from = this.selection();
    const start = from ?? { point: 0, position: 0 };
    const cell = moveKey(event, this.shape(), start, this.page());
    if (cell) this.#go(from ? cell : start);
    else if (event.key === "Enter" || event.key === " ") this.#pin(start);
    else return;
    event.preventDefault();
    event.stopPropagation();
  }

  /** Where the keyboard stands is isolated, as what the pointer is over. */
  #go(cell: Cell): void {
    const { state } = this.frame;
    const spot = this.#spot(cell);
    if (!spot) return;
    state.side.value = cell.point ? "key" : "query";
    state.look(cell.point ? { key: cell.position } : { query: cell.position });
    state.hover.value = spot;
  }
}

/** The token that is pointed at; of a pair, the query. */
function cellOf({ query, key }: Spot): Cell {
  return query < 0 ? { point: 1, position: key } : { point: 0, position: query };
}
