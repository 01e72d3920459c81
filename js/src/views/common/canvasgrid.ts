import { effect, type Signal, signal } from "@preact/signals";
import type { Surface } from "../../marks/painter";
import {
  type Cell,
  cellAt,
  clamp,
  edgeNear,
  type GridShape,
  hitTest,
  MAX_CELL,
  MIN_CELL,
  type Place,
  placeOf,
  scrollToShow,
  totalHeight,
  totalWidth,
} from "../../marks/windowing";

export const ROW_HEIGHT = 22;

export const BESIDE_FROM = 690;
const BESIDE = 282;
/** The lines around a grid, and its scroll bar. */
const FRAME = 18;

/** The width of columns that fill the room, between two ends. */
export function fittingWidth(room: number, columns: number, least: number, most: number): number {
  return clamp(Math.floor(room / Math.max(1, columns)), least, most);
}

export interface GridElements {
  root: HTMLElement;
  scroller: HTMLElement;
  sizer: HTMLElement;
  canvas: HTMLCanvasElement;
}

/** Where a box beside a cell belongs. */
export interface Anchor {
  cell: Cell;
  /** The cell's lower left corner, in pixels from the view's top left. */
  x: number;
  y: number;
  /** How high the cell is. */
  height: number;
}

/**
 * A grid on a canvas inside a scrolled element: draws once a frame at most, keeps the selected cell
 * in sight, and says over what the pointer is. What is drawn and what gestures mean is a subclass's.
 */
export abstract class CanvasGrid {
  protected readonly stop: (() => void)[] = [];
  protected focused = false;
  /** The width that the grid may take. */
  protected readonly room: Signal<number> = signal(0);
  #frame = 0;
  /** Whether someone scrolled away since the selected cell was last brought into sight. */
  #left = false;
  #shown: [left: number, top: number] = [0, 0];
  #widening: { column: number } | null = null;

  constructor(protected readonly elements: GridElements) {}

  abstract shape(): GridShape;
  protected abstract selection(): Cell | null;
  /** Read every signal that is drawn. */
  protected abstract watch(): void;
  protected abstract paint(surface: Omit<Surface, "shape" | "palette">): void;
  protected abstract widen(width: number): void;
  protected abstract over(cell: Cell | null, event: PointerEvent): void;
  protected abstract left(): void;
  protected abstract clicked(place: Place): void;
  protected abstract key(event: KeyboardEvent): void;
  protected scrolled(): void {}
  protected pressed(_place: Place, _event: PointerEvent): void {}
  protected released(_place: Place | null, _event: PointerEvent): void {}

  /** To be called by a subclass once it is made. */
  protected begin(): void {
    this.#measure();
    this.#listen();
    this.stop.push(effect(() => this.#resize()));
    this.stop.push(effect(() => this.#showSelected()));
    this.stop.push(
      effect(() => {
        this.watch();
        this.schedule();
      }),
    );
    const observer = new ResizeObserver(() => {
      this.#measure();
      this.#resize();
      if (!this.#left) this.#showSelected();
    });
    observer.observe(this.elements.scroller);
    observer.observe(this.elements.root);
    this.stop.push(() => observer.disconnect());
  }

  dispose(): void {
    cancelAnimationFrame(this.#frame);
    for (const stop of this.stop) stop();
  }

  schedule(): void {
    if (this.#frame) return;
    this.#frame = requestAnimationFrame(() => {
      this.#frame = 0;
      this.#draw();
    });
  }

  /** Rows that a screenful holds. */
  protected page(): number {
    const { rowHeight } = this.shape();
    return Math.max(1, Math.floor(this.elements.scroller.clientHeight / rowHeight) - 3);
  }

  /** The lower left corner of a cell, from the view's own top left. */
  protected anchor(cell: Cell): Anchor {
    const { scroller, root } = this.elements;
    const shape = this.shape();
    const { row, column } = placeOf(shape, cell);
    const inner = scroller.getBoundingClientRect();
    const outer = root.getBoundingClientRect();
    const x = shape.headWidth + column * shape.cellWidth - scroller.scrollLeft;
    const y = shape.headHeight + (row + 1) * shape.rowHeight - scroller.scrollTop;
    const [left, top] = [inner.left - outer.left + x, inner.top - outer.top + y];
    return { cell, x: left, y: top, height: shape.rowHeight };
  }

  /** The grid is as wide as its columns, so it is the frame around it that tells. */
  #measure(): void {
    const style = getComputedStyle(this.elements.root);
    const inner = (name: "paddingLeft" | "paddingRight") => Number.parseFloat(style[name]) || 0;
    const width = this.elements.root.clientWidth - inner("paddingLeft") - inner("paddingRight");
    // As in the style sheet: what stands beside the grid, and from when on it stands below.
    this.room.value = width > BESIDE_FROM ? width - BESIDE - FRAME : width - FRAME;
  }

  #resize(): void {
    const shape = this.shape();
    const { scroller } = this.elements;
    const width = totalWidth(shape);
    // Where the gutter has no bar (a browser may hide it), it can be scrolled over: the last column
    // is then reached only with as much room behind it.
    const gutter = scroller.offsetWidth - 2 * scroller.clientLeft - scroller.clientWidth;
    const behind = width > scroller.clientWidth ? gutter : 0;
    this.elements.sizer.style.width = `${width + behind}px`;
    this.elements.sizer.style.height = `${totalHeight(shape)}px`;
    this.schedule();
  }

  #showSelected(): void {
    const { scroller } = this.elements;
    const shape = this.shape();
    const cell = this.selection();
    const { scrollTop, scrollLeft, clientHeight, clientWidth } = scroller;
    if (!cell || !clientHeight) return;
    const { row, column } = placeOf(shape, cell);
    const top = scrollToShow(row, shape.rowHeight, shape.headHeight, scrollTop, clientHeight);
    const left = scrollToShow(column, shape.cellWidth, shape.headWidth, scrollLeft, clientWidth);
    if (top !== scrollTop) scroller.scrollTop = top;
    if (left !== scrollLeft) scroller.scrollLeft = left;
    this.#left = false;
    this.#shown = [scroller.scrollLeft, scroller.scrollTop];
  }

  #draw(): void {
    const { scroller, canvas, root } = this.elements;
    const { clientWidth: width, clientHeight: height, scrollLeft, scrollTop } = scroller;
    if (!width || !height) return;
    canvas.style.width = `${width}px`;
    canvas.style.height = `${height}px`;
    const ratio = window.devicePixelRatio || 1;
    // Read each time: a host may bring our style sheet after the first picture.
    const font = getComputedStyle(root).fontFamily || "sans-serif";
    this.paint({ scrollLeft, scrollTop, width, height, ratio, font });
  }

  #listen(): void {
    const { scroller } = this.elements;
    const controller = new AbortController();
    const options = { signal: controller.signal };
    this.stop.push(() => controller.abort());
    const scrolled = () => {
      const [left, top] = this.#shown;
      this.#left = scroller.scrollLeft !== left || scroller.scrollTop !== top;
      this.scrolled();
      this.schedule();
    };
    scroller.addEventListener("scroll", scrolled, { ...options, passive: true });
    scroller.addEventListener("pointermove", (event) => this.#moved(event), options);
    scroller.addEventListener("pointerleave", () => this.#widening || this.left(), options);
    scroller.addEventListener("pointerdown", (event) => this.#down(event), options);
    scroller.addEventListener("pointerup", (event) => this.#up(event), options);
    scroller.addEventListener("click", (event) => this.#click(event), options);
    scroller.addEventListener("keydown", (event) => this.key(event), options);
    for (const type of ["focus", "blur"] as const) {
      const update = () => {
        this.focused = type === "focus";
        this.schedule();
      };
      scroller.addEventListener(type, update, options);
    }
  }

  #point(event: MouseEvent): [x: number, y: number] {
    const box = this.elements.scroller.getBoundingClientRect();
    const { clientLeft, clientTop } = this.elements.scroller;
    return [event.clientX - box.left - clientLeft, event.clientY - box.top - clientTop];
  }

  #place(event: MouseEvent): Place | null {
    const { scrollLeft, scrollTop } = this.elements.scroller;
    return hitTest(this.shape(), ...this.#point(event), scrollLeft, scrollTop);
  }

  #moved(event: PointerEvent): void {
    const { scroller } = this.elements;
    const [x, y] = this.#point(event);
    const shape = this.shape();
    if (this.#widening) {
      const inside = x - shape.headWidth + scroller.scrollLeft;
      const width = Math.round(inside / (this.#widening.column + 1));
      this.widen(clamp(width, MIN_CELL, MAX_CELL));
      return;
    }
    const edge = edgeNear(shape, x, y, scroller.scrollLeft);
    const place = this.#place(event);
    scroller.style.cursor =
      edge >= 0 ? "col-resize" : place && place.area !== "corner" ? "pointer" : "";
    this.over(place?.area === "cell" ? cellAt(shape, place.row, place.column) : null, event);
  }

  #down(event: PointerEvent): void {
    const { scroller } = this.elements;
    const [x, y] = this.#point(event);
    const column = edgeNear(this.shape(), x, y, scroller.scrollLeft);
    if (column < 0) {
      const place = this.#place(event);
      if (place) this.pressed(place, event);
      return;
    }
    this.#widening = { column };
    scroller.setPointerCapture(event.pointerId);
    event.preventDefault();
  }

  #up(event: PointerEvent): void {
    if (!this.#widening) {
      this.released(this.#place(event), event);
      return;
    }
    this.elements.scroller.releasePointerCapture(event.pointerId);
    // The click that follows the drag must not open a cell; it comes before the next task.
    setTimeout(() => {
      this.#widening = null;
    });
  }

  #click(event: MouseEvent): void {
    if (this.#widening) return;
    const place = this.#place(event);
    if (place && place.area !== "corner") this.clicked(place);
  }
}
