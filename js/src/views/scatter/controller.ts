import { effect } from "@preact/signals";
import type { ScatterData } from "./data";
import { between, type Window, windowOf } from "./frame";
import { acrossOf, insideOf, Painter, upOf } from "./painter";
import type { ScatterState } from "./state";

/** Milliseconds that marks take from one layer to the next. */
const GLIDE = 260;
/** How near the pointer must be to a mark, in pixels. */
const NEAR = 14;

/** One picture on its canvas: glides from step to step, and knows which mark is under the pointer. */
export class ScatterCanvas {
  readonly #painter: Painter;
  readonly #stop: (() => void)[] = [];
  #frame = 0;
  /** What is on screen, and where the glide that is under way began. */
  #places = new Float32Array(0);
  #from = new Float32Array(0);
  #window: Window | null = null;
  #fromWindow: Window | null = null;
  #began = Number.NEGATIVE_INFINITY;
  #step = -1;
  #run = -1;
  #axes = "";
  /** 1 for marks that are drawn. */
  #visible: Uint8Array = new Uint8Array(0);

  constructor(
    private readonly state: ScatterState,
    private readonly picture: number,
    private readonly canvas: HTMLCanvasElement,
    private readonly root: HTMLElement,
  ) {
    this.#painter = new Painter(canvas);
    this.#stop.push(effect(() => this.#watch()));
    const observer = new ResizeObserver(() => this.#schedule());
    observer.observe(canvas);
    this.#stop.push(() => observer.disconnect());
    this.#listen();
  }

  dispose(): void {
    cancelAnimationFrame(this.#frame);
    for (const stop of this.#stop) stop();
  }

  /** Read what is drawn; a new step begins a glide from what is on screen. */
  #watch(): void {
    const { state } = this;
    const data = state.scatter.value;
    const [step, axes] = [state.drawnStep.value, state.own.traits.axes.value];
    state.extent.value;
    this.#visible = state.visible(this.picture);
    state.own.traits.item.value;
    state.pointed.value;
    state.palette.value;
    if (data && (step !== this.#step || axes !== this.#axes)) {
      const same = data.meta.run === this.#run && this.#places.length === 2 * data.size;
      this.#from = same ? this.#places.slice() : new Float32Array(0);
      this.#fromWindow = same ? this.#window : null;
      this.#began = same && !reducedMotion() ? performance.now() : Number.NEGATIVE_INFINITY;
      [this.#step, this.#axes, this.#run] = [step, axes, data.meta.run];
    }
    this.#schedule();
  }

  #schedule(): void {
    if (this.#frame) return;
    this.#frame = requestAnimationFrame((now) => {
      this.#frame = 0;
      this.#draw(now);
    });
  }

  #draw(now: number): void {
    const { state, canvas, picture } = this;
    const data = state.scatter.peek();
    const extent = state.extent.peek();
    const [width, height] = [canvas.clientWidth, canvas.clientHeight];
    if (!data || !extent || !width || !height) return;
    const part = Math.min(1, Math.max(0, (now - this.#began) / GLIDE));
    this.#move(data, eased(part));
    const target = windowOf(extent, data.meta.scatter.equal, insideOf(width, height));
    const from = part < 1 ? this.#fromWindow : null;
    this.#window = from ? between(from, target, eased(part)) : target;
    const { traits } = state.own;
    this.#painter.draw({
      data,
      picture,
      step: this.#step,
      places: this.#places,
      window: this.#window,
      visible: this.#visible,
      pointed: state.pointed.peek(),
      chosen: traits.item.peek(),
      palette: state.palette.peek(),
      // Read each time: a host may bring our style sheet after the first picture.
      font: getComputedStyle(this.root).fontFamily || "sans-serif",
      width,
      height,
      ratio: window.devicePixelRatio || 1,
    });
    if (part < 1) this.#schedule();
  }

  /** Put marks between where they were and where they belong. */
  #move(data: ScatterData, part: number): void {
    if (this.#places.length !== 2 * data.size) this.#places = new Float32Array(2 * data.size);
    const [xs, ys] = [data.xs(this.picture, this.#step), data.ys(this.picture, this.#step)];
    const from = this.#from;
    for (let item = 0; item < data.size; item++) {
      const [x, y] = [2 * item, 2 * item + 1];
      this.#places[x] = glided(from[x], xs[item], part);
      this.#places[y] = glided(from[y], ys[item], part);
    }
  }

  #listen(): void {
    const { canvas, state } = this;
    const controller = new AbortController();
    const options = { signal: controller.signal };
    this.#stop.push(() => controller.abort());
    canvas.addEventListener(
      "pointermove",
      (event) => {
        const item = this.#under(event);
        state.pointed.value = item;
        canvas.style.cursor = item < 0 ? "" : "pointer";
      },
      options,
    );
    canvas.addEventListener(
      "pointerleave",
      () => {
        state.pointed.value = -1;
      },
      options,
    );
    canvas.addEventListener(
      "click",
      (event) => {
        const item = this.#under(event);
        state.choose(item === state.own.traits.item.peek() ? -1 : item);
      },
      options,
    );
  }

  /** The mark that is nearest to the pointer; -1 where none is near. */
  #under(event: MouseEvent): number {
    const box = this.canvas.getBoundingClientRect();
    const [x, y] = [event.clientX - box.left, event.clientY - box.top];
    const window = this.#window;
    if (!window) return -1;
    const inside = insideOf(this.canvas.clientWidth, this.canvas.clientHeight);
    let [best, least] = [-1, NEAR ** 2];
    for (let item = 0; 2 * item < this.#places.length; item++) {
      const dx = acrossOf(this.#places[2 * item] as number, window, inside) - x;
      const dy = upOf(this.#places[2 * item + 1] as number, window, inside) - y;
      const far = dx * dx + dy * dy;
      // Of marks on one spot the last is on top.
      if (far <= least && this.#visible[item]) [best, least] = [item, far];
    }
    return best;
  }
}

/** Between two places; what was nowhere appears where it belongs. */
function glided(from = Number.NaN, to = Number.NaN, part = 1): number {
  return Number.isNaN(from) ? to : from + (to - from) * part;
}

function eased(part: number): number {
  return part * part * (3 - 2 * part);
}

function reducedMotion(): boolean {
  return window.matchMedia?.("(prefers-reduced-motion: reduce)").matches ?? false;
}
