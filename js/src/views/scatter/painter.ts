import { compact } from "../../marks/numbers";
import type { Palette } from "../../theme/palette";
import type { ScatterData } from "./data";
import { type Inside, ticks, type Window } from "./frame";
import { depthHue, imageOf, radiusOf, styleOf } from "./marks";
import { Sheet, type Stamp, stampOf } from "./stamps";

export interface Scene {
  data: ScatterData;
  picture: number;
  step: number;
  /** Where marks are now, on their way to the step: x, y, x, y, … */
  places: Float32Array;
  window: Window;
  /** 1 for marks that are drawn. */
  visible: Uint8Array;
  pointed: number;
  chosen: number;
  palette: Palette;
  font: string;
  width: number;
  height: number;
  ratio: number;
}

const LEFT = 44;
const BELOW = 20;
const AROUND = 8;

export function insideOf(width: number, height: number): Inside {
  return { x: LEFT, y: AROUND, width: width - LEFT - AROUND, height: height - BELOW - AROUND };
}

/** Draws one picture: axes, trails, marks, and rings around those that are looked at. */
export class Painter {
  readonly #ctx: CanvasRenderingContext2D;
  readonly #sheet = new Sheet();
  readonly #stamps = new Map<string, Stamp>();

  constructor(private readonly canvas: HTMLCanvasElement) {
    const ctx = canvas.getContext("2d", { alpha: false });
    if (!ctx) throw new Error("This browser gives no 2D canvas.");
    this.#ctx = ctx;
  }

  draw(scene: Scene): void {
    const { width, height, ratio, palette } = scene;
    const ctx = this.#ctx;
    const [wide, high] = [Math.round(width * ratio), Math.round(height * ratio)];
    if (this.canvas.width !== wide) this.canvas.width = wide;
    if (this.canvas.height !== high) this.canvas.height = high;
    ctx.setTransform(ratio, 0, 0, ratio, 0, 0);
    ctx.fillStyle = palette.bg;
    ctx.fillRect(0, 0, width, height);
    const inside = insideOf(width, height);
    this.#axes(scene, inside);
    ctx.save();
    ctx.beginPath();
    ctx.rect(inside.x, inside.y, inside.width, inside.height);
    ctx.clip();
    this.#trails(scene, inside);
    this.#marks(scene, inside);
    ctx.restore();
    this.#ring(scene, inside, scene.pointed, palette.dim);
    this.#ring(scene, inside, scene.chosen, palette.fg);
  }

  #axes({ window, palette, font }: Scene, inside: Inside): void {
    const ctx = this.#ctx;
    ctx.font = `10.5px ${font}`;
    ctx.lineWidth = 1;
    ctx.strokeStyle = palette.line;
    ctx.fillStyle = palette.dim;
    ctx.textBaseline = "middle";
    ctx.textAlign = "right";
    for (const value of ticks(window.bottom, window.top, inside.height / 70)) {
      const y = Math.round(upOf(value, window, inside)) + 0.5;
      this.#line(inside.x, y, inside.x + inside.width, y);
      ctx.fillText(compact(value, 3), inside.x - 6, y);
    }
    ctx.textAlign = "center";
    for (const value of ticks(window.left, window.right, inside.width / 90)) {
      const x = Math.round(acrossOf(value, window, inside)) + 0.5;
      this.#line(x, inside.y, x, inside.y + inside.height);
      ctx.fillText(compact(value, 3), x, inside.y + inside.height + 11);
    }
    ctx.strokeStyle = palette.strong;
    ctx.strokeRect(inside.x + 0.5, inside.y + 0.5, inside.width - 1, inside.height - 1);
  }

  #line(x0: number, y0: number, x1: number, y1: number): void {
    const ctx = this.#ctx;
    ctx.beginPath();
    ctx.moveTo(x0, y0);
    ctx.lineTo(x1, y1);
    ctx.stroke();
  }

  /** Where the chosen mark, and marks that are layers, have been up to this step. */
  #trails(scene: Scene, inside: Inside): void {
    const { data, visible, chosen, palette } = scene;
    if (data.meta.scatter.colors === "depth") {
      for (let item = 0; item < data.size; item++) {
        if (visible[item]) this.#trail(scene, inside, item, depthHue(item, data.size), 0.75);
      }
    }
    if (visible[chosen]) this.#trail(scene, inside, chosen, palette.fg, 0.75);
  }

  #trail(scene: Scene, inside: Inside, item: number, hue: string, alpha: number): void {
    const { data, picture, step, window, places } = scene;
    const ctx = this.#ctx;
    ctx.save();
    ctx.strokeStyle = hue;
    ctx.globalAlpha = alpha;
    ctx.lineWidth = 1.2;
    ctx.beginPath();
    let begun = false;
    const to = (x: number, y: number) => {
      if (!Number.isFinite(x) || !Number.isFinite(y)) return;
      const [across, up] = [acrossOf(x, window, inside), upOf(y, window, inside)];
      if (begun) ctx.lineTo(across, up);
      else ctx.moveTo(across, up);
      begun = true;
    };
    for (let one = 0; one < step; one++) to(...data.at(picture, one, item));
    to(places[2 * item] ?? Number.NaN, places[2 * item + 1] ?? Number.NaN);
    ctx.stroke();
    ctx.restore();
  }

  #marks(scene: Scene, inside: Inside): void {
    const { data, picture, places, visible, window, width, height, ratio } = scene;
    const perX = (inside.width / (window.right - window.left)) * ratio;
    const perY = (inside.height / (window.top - window.bottom)) * ratio;
    const [fromX, fromY] = [inside.x * ratio, inside.y * ratio];
    const labels = data.labels(picture);
    const { fitted } = data.meta.scatter;
    this.#sheet.begin(Math.round(width * ratio), Math.round(height * ratio));
    const stamps = new Map<number, Stamp>();
    for (let item = 0; item < data.size; item++) {
      const [x, y] = [places[2 * item] as number, places[2 * item + 1] as number];
      if (!visible[item] || Number.isNaN(x) || Number.isNaN(y)) continue;
      const hollow = fitted[item] === 1;
      const kind = 2 * (labels[item] as number) + Number(hollow);
      let stamp = stamps.get(kind);
      if (!stamp) {
        stamp = this.#stamp(scene, labels[item] as number, hollow);
        stamps.set(kind, stamp);
      }
      const across = fromX + (x - window.left) * perX;
      this.#sheet.put(stamp, across, fromY + (window.top - y) * perY);
    }
    this.#ctx.setTransform(1, 0, 0, 1, 0, 0);
    this.#sheet.layOn(this.#ctx);
    this.#ctx.setTransform(ratio, 0, 0, ratio, 0, 0);
  }

  #stamp({ data, palette, ratio }: Scene, label: number, hollow: boolean): Stamp {
    const depth = data.meta.scatter.colors === "depth";
    const style = depth ? { hue: depthHue(label, data.size), shape: 0 } : styleOf(label);
    const key = `${style.hue} ${style.shape} ${hollow} ${palette.name} ${ratio} ${data.size}`;
    let stamp = this.#stamps.get(key);
    if (!stamp) {
      stamp = stampOf(imageOf(style, hollow, radiusOf(data.size), palette, ratio));
      this.#stamps.set(key, stamp);
    }
    return stamp;
  }

  #ring(scene: Scene, inside: Inside, item: number, color: string): void {
    const { data, places, window, visible } = scene;
    const [x, y] = [places[2 * item], places[2 * item + 1]];
    if (x === undefined || y === undefined || Number.isNaN(x) || !visible[item]) return;
    const ctx = this.#ctx;
    ctx.strokeStyle = color;
    ctx.lineWidth = 2;
    ctx.beginPath();
    const [across, up] = [acrossOf(x, window, inside), upOf(y, window, inside)];
    ctx.arc(across, up, radiusOf(data.size) + 4, 0, 2 * Math.PI);
    ctx.stroke();
  }
}

export function acrossOf(x: number, { left, right }: Window, inside: Inside): number {
  return inside.x + ((x - left) / (right - left)) * inside.width;
}

export function upOf(y: number, { bottom, top }: Window, inside: Inside): number {
  return inside.y + ((top - y) / (top - bottom)) * inside.height;
}
