import { effect } from "@preact/signals";
import { GridPainter } from "../../marks/grid";
import { headHeight } from "../../marks/gridheads";
import type { Scene } from "../../marks/gridtypes";
import {
  type Cell,
  cellAt,
  clamp,
  edgeNear,
  type GridShape,
  hitTest,
  MAX_CELL,
  MIN_CELL,
  placeOf,
  scrollToShow,
  totalHeight,
  totalWidth,
} from "../../marks/windowing";
import { keyAction } from "./keyboard";
import type { Popup, ViewState } from "./state";

const ROW_HEIGHT = 22;

export interface TableElements {
  root: HTMLElement;
  scroller: HTMLElement;
  sizer: HTMLElement;
  canvas: HTMLCanvasElement;
}

/** Ties the canvas to the state: draws once a frame at most, turns gestures into state. */
export class TableController {
  readonly #painter: GridPainter;
  readonly #stop: (() => void)[] = [];
  #frame = 0;
  #dragging: { column: number; id: number } | null = null;
  #focused = false;

  constructor(
    private readonly state: ViewState,
    private readonly elements: TableElements,
  ) {
    this.#painter = new GridPainter(elements.canvas);
    this.#listen();
    this.#stop.push(effect(() => this.#resize()));
    this.#stop.push(effect(() => this.#showSelected()));
    this.#stop.push(effect(() => this.#watch()));
    const observer = new ResizeObserver(() => this.schedule());
    observer.observe(elements.scroller);
    this.#stop.push(() => observer.disconnect());
  }

  dispose(): void {
    cancelAnimationFrame(this.#frame);
    for (const stop of this.#stop) stop();
  }

  schedule(): void {
    if (this.#frame) return;
    this.#frame = requestAnimationFrame(() => {
      this.#frame = 0;
      this.#draw();
    });
  }

  shape(): GridShape {
    const { traits } = this.state.session;
    const data = this.state.data.value;
    const transposed = traits.transposed.value;
    const cellWidth = clamp(traits.cell_width.value, MIN_CELL, MAX_CELL);
    return {
      points: data?.points ?? 0,
      positions: data?.positions ?? 0,
      transposed,
      cellWidth,
      rowHeight: ROW_HEIGHT,
      headWidth: transposed ? 148 : 76,
      headHeight: headHeight(cellWidth),
    };
  }

  #resize(): void {
    const shape = this.shape();
    this.elements.sizer.style.width = `${totalWidth(shape)}px`;
    this.elements.sizer.style.height = `${totalHeight(shape)}px`;
    this.schedule();
  }

  /** Subscribe to everything that is drawn. */
  #watch(): void {
    const { state } = this;
    const { traits, version } = state.session;
    state.data.value;
    version.value;
    state.scale.value;
    state.selected.value;
    state.hover.value;
    traits.pins.value;
    state.trajectories.value;
    this.schedule();
  }

  #showSelected(): void {
    const { scroller } = this.elements;
    const shape = this.shape();
    const { row, column } = placeOf(shape, this.state.selected.value);
    const { scrollTop, scrollLeft, clientHeight, clientWidth } = scroller;
    if (!clientHeight) return;
    const top = scrollToShow(row, shape.rowHeight, shape.headHeight, scrollTop, clientHeight);
    const left = scrollToShow(column, shape.cellWidth, shape.headWidth, scrollLeft, clientWidth);
    if (top !== scrollTop) scroller.scrollTop = top;
    if (left !== scrollLeft) scroller.scrollLeft = left;
  }

  #draw(): void {
    const { state } = this;
    const { scroller, canvas } = this.elements;
    const data = state.data.peek();
    const width = scroller.clientWidth;
    const height = scroller.clientHeight;
    if (!data || !width || !height) return;
    canvas.style.width = `${width}px`;
    canvas.style.height = `${height}px`;
    const { traits } = state.session;
    const scene: Scene = {
      shape: this.shape(),
      source: data.source(traits.color.peek(), traits.tracked.peek()),
      scale: state.scale.peek(),
      palette: state.palette.peek(),
      selected: state.selected.peek(),
      hover: state.hover.peek()?.cell ?? null,
      pins: state.trajectories.peek().map(({ pin, style }) => ({ ...pin, color: style.color })),
      focused: this.#focused,
      scrollLeft: scroller.scrollLeft,
      scrollTop: scroller.scrollTop,
      width,
      height,
      ratio: window.devicePixelRatio || 1,
      // Read each time: a host may bring our style sheet after the first picture.
      font: getComputedStyle(this.elements.root).fontFamily || "sans-serif",
    };
    this.#painter.draw(scene);
  }

  #listen(): void {
    const { scroller } = this.elements;
    const controller = new AbortController();
    const options = { signal: controller.signal };
    this.#stop.push(() => controller.abort());
    scroller.addEventListener("scroll", () => this.#scrolled(), { ...options, passive: true });
    scroller.addEventListener("pointermove", (event) => this.#moved(event), options);
    scroller.addEventListener("pointerleave", () => this.#left(), options);
    scroller.addEventListener("pointerdown", (event) => this.#pressed(event), options);
    scroller.addEventListener("pointerup", (event) => this.#released(event), options);
    scroller.addEventListener("click", (event) => this.#clicked(event), options);
    scroller.addEventListener("keydown", (event) => this.#key(event), options);
    for (const type of ["focus", "blur"] as const) {
      const update = () => {
        this.#focused = type === "focus";
        this.schedule();
      };
      scroller.addEventListener(type, update, options);
    }
  }

  #scrolled(): void {
    const { hover, popup } = this.state;
    hover.value = null;
    const open = popup.peek();
    if (open) popup.value = this.#anchor(open.cell);
    this.schedule();
  }

  #point(event: MouseEvent): { x: number; y: number } {
    const box = this.elements.scroller.getBoundingClientRect();
    const { clientLeft, clientTop } = this.elements.scroller;
    return { x: event.clientX - box.left - clientLeft, y: event.clientY - box.top - clientTop };
  }

  /** The lower left corner of a cell, from the view's own top left. */
  #anchor(cell: Cell): Popup {
    const { scroller, root } = this.elements;
    const shape = this.shape();
    const { row, column } = placeOf(shape, cell);
    const inner = scroller.getBoundingClientRect();
    const outer = root.getBoundingClientRect();
    const x = shape.headWidth + column * shape.cellWidth - scroller.scrollLeft;
    const y = shape.headHeight + (row + 1) * shape.rowHeight - scroller.scrollTop;
    return { cell, x: inner.left - outer.left + x, y: inner.top - outer.top + y };
  }

  #moved(event: PointerEvent): void {
    const { scroller } = this.elements;
    const { x, y } = this.#point(event);
    const shape = this.shape();
    if (this.#dragging) {
      const inside = x - shape.headWidth + scroller.scrollLeft;
      const width = Math.round(inside / (this.#dragging.column + 1));
      this.state.session.write({ cell_width: clamp(width, MIN_CELL, MAX_CELL) }, "soon");
      return;
    }
    const edge = edgeNear(shape, x, y, scroller.scrollLeft);
    const place = hitTest(shape, x, y, scroller.scrollLeft, scroller.scrollTop);
    scroller.style.cursor =
      edge >= 0 ? "col-resize" : place && place.area !== "corner" ? "pointer" : "";
    const cell = place?.area === "cell" ? cellAt(shape, place.row, place.column) : null;
    const old = this.state.hover.peek();
    if (cell?.point === old?.cell.point && cell?.position === old?.cell.position) return;
    this.state.hover.value = cell ? this.#anchor(cell) : null;
  }

  #left(): void {
    if (!this.#dragging) this.state.hover.value = null;
  }

  #pressed(event: PointerEvent): void {
    const { scroller } = this.elements;
    const { x, y } = this.#point(event);
    const column = edgeNear(this.shape(), x, y, scroller.scrollLeft);
    if (column < 0) return;
    this.#dragging = { column, id: event.pointerId };
    scroller.setPointerCapture(event.pointerId);
    event.preventDefault();
  }

  #released(event: PointerEvent): void {
    if (!this.#dragging) return;
    this.elements.scroller.releasePointerCapture(event.pointerId);
    // The click that follows the drag must not open a cell; it comes before the next task.
    setTimeout(() => {
      this.#dragging = null;
    });
  }

  #clicked(event: MouseEvent): void {
    if (this.#dragging) return;
    const { scroller } = this.elements;
    const { x, y } = this.#point(event);
    const shape = this.shape();
    const place = hitTest(shape, x, y, scroller.scrollLeft, scroller.scrollTop);
    if (!place || place.area === "corner") return;
    const { selected } = this.state;
    const chosen = placeOf(shape, selected.peek());
    const row = place.row < 0 ? chosen.row : place.row;
    const column = place.column < 0 ? chosen.column : place.column;
    this.#choose(cellAt(shape, row, column), place.area === "cell");
  }

  #choose(cell: Cell, open: boolean): void {
    this.state.select(cell, "now");
    this.state.hover.value = null;
    this.state.popup.value = open ? this.#anchor(cell) : null;
  }

  #key(event: KeyboardEvent): void {
    const { state } = this;
    const shape = this.shape();
    const page = Math.max(1, Math.floor(this.elements.scroller.clientHeight / ROW_HEIGHT) - 3);
    const action = keyAction(event, shape, state.selected.peek(), page);
    if (!action || !state.data.peek()) return;
    if (action.kind === "close" && !state.popup.peek() && !state.hover.peek()) return;
    event.preventDefault();
    event.stopPropagation();
    const { point, position } = state.selected.peek();
    if (action.kind === "move") {
      state.popup.value = null;
      state.select(action.cell);
    } else if (action.kind === "open") this.#choose({ point, position }, true);
    else if (action.kind === "pin") {
      const id = state.data.peek()?.topId(point, position) ?? -1;
      if (id >= 0) state.togglePin({ position, id });
    } else if (action.kind === "help") state.help.value = !state.help.peek();
    else {
      state.popup.value = null;
      state.hover.value = null;
    }
  }
}
