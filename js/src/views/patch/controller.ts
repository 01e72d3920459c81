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
import { sameCell } from "./drag";
import { patchKey } from "./keyboard";
import type { PatchState } from "./state";

const HEAD_WIDTH = 76;

/** Columns are as wide as there is room for, between these. */
const LEAST_HEAD = 40;
const LEAST_TOKEN = 56;
const MOST = 112;

/** The grid of a sweep: what is drawn of it, and what its gestures mean. */
export class HeatController extends CanvasGrid {
  readonly #painter: HeatPainter;

  constructor(
    private readonly state: PatchState,
    elements: GridElements,
  ) {
    super(elements);
    this.#painter = new HeatPainter(elements.canvas);
    this.begin();
    // A button that goes up outside the grid gives the way up.
    const end = () => this.state.gesture({ type: "release", cell: null });
    elements.root.ownerDocument.addEventListener("pointerup", end);
    this.stop.push(() => elements.root.ownerDocument.removeEventListener("pointerup", end));
  }

  override shape(): GridShape {
    const data = this.state.data.value;
    const own = this.state.session.traits.cell_width.value;
    const columns = data?.columns ?? 0;
    const least = data?.byHead ? LEAST_HEAD : LEAST_TOKEN;
    const fitting = fittingWidth(this.room.value - HEAD_WIDTH, columns, least, MOST);
    const cellWidth = own > 0 ? clamp(own, MIN_CELL, MAX_CELL) : fitting;
    return {
      points: data?.layers ?? 0,
      positions: columns,
      transposed: false,
      cellWidth,
      rowHeight: ROW_HEIGHT,
      headWidth: HEAD_WIDTH,
      headHeight: heatHeadHeight(cellWidth, data?.byHead ? 1 : 2),
    };
  }

  protected override selection(): Cell | null {
    return this.state.selected.value;
  }

  protected override watch(): void {
    const { state } = this;
    state.data.value;
    state.session.version.value;
    state.scale.value;
    state.selected.value;
    state.hover.value;
    state.marks.value;
  }

  protected override paint(surface: Omit<Surface, "shape" | "palette">): void {
    const { state } = this;
    const data = state.data.peek();
    if (!data) return;
    this.#painter.draw({
      ...surface,
      shape: this.shape(),
      palette: state.palette.peek(),
      source: data.source(),
      scale: state.scale.peek(),
      selected: state.selected.peek(),
      hover: state.hover.peek()?.cell ?? null,
      marks: state.marks.peek(),
      groups: [],
      row: null,
      focused: this.focused,
    });
  }

  protected override widen(width: number): void {
    this.state.session.write({ cell_width: width }, "soon");
  }

  #cell(place: Place | null): Cell | null {
    return place?.area === "cell" ? cellAt(this.shape(), place.row, place.column) : null;
  }

  protected override over(cell: Cell | null): void {
    const { hover } = this.state;
    if (sameCell(cell, hover.peek()?.cell ?? null)) return;
    hover.value = cell && this.anchor(cell);
    this.state.gesture({ type: "over", cell });
  }

  protected override scrolled(): void {
    this.state.hover.value = null;
  }

  protected override left(): void {
    this.over(null);
  }

  protected override pressed(place: Place, event: PointerEvent): void {
    const cell = this.#cell(place);
    // A finger that moves scrolls; it chooses source and target by two taps instead.
    if (!cell || event.button !== 0 || event.pointerType === "touch") return;
    this.state.gesture({ type: "press", cell });
  }

  protected override released(place: Place | null, event: PointerEvent): void {
    const cell = this.#cell(place);
    if (event.pointerType !== "touch") this.state.gesture({ type: "release", cell });
    else if (cell) {
      this.state.gesture({ type: "press", cell });
      this.state.gesture({ type: "release", cell });
    }
  }

  /** Cells are handled by press and release; a heading moves the selection along it. */
  protected override clicked(place: Place): void {
    if (place.area === "cell") return;
    const at = this.#from();
    const { point, position } = cellAt(this.shape(), place.row, place.column);
    this.state.select(place.area === "row" ? { ...at, point } : { ...at, position }, "now");
  }

  /** Where keys start: the selected cell, or the one that matters most. */
  #from(): Cell {
    const { state } = this;
    return state.selected.peek() ?? state.data.peek()?.strongest() ?? { point: 0, position: 0 };
  }

  protected override key(event: KeyboardEvent): void {
    const { state } = this;
    const from = this.#from();
    const action = patchKey(event, this.shape(), from, this.page());
    if (!action || !state.data.peek()) return;
    if (action.kind === "cancel" && state.drag.peek().kind === "idle") return;
    event.preventDefault();
    event.stopPropagation();
    const none = state.selected.peek() === null;
    if (action.kind === "move") state.select(none ? from : action.cell);
    else if (action.kind === "enter") state.gesture({ type: "enter", cell: from });
    else if (action.kind === "add") state.patch(from, from);
    else if (action.kind === "cancel") state.gesture({ type: "cancel" });
    else state.help.value = !state.help.peek();
  }
}
