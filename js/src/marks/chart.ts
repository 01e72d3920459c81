import type { LineStyle, Palette } from "../theme/palette";
import { clamp } from "./windowing";

export interface ChartLine {
  style: LineStyle;
  values: readonly (number | null)[];
}

export interface ChartInput {
  labels: readonly string[];
  lines: readonly ChartLine[];
  palette: Palette;
  log: boolean;
  font: string;
  /** The row that is looked at, drawn as a vertical line. */
  at: number;
}

/** Nothing below this is drawn apart on the logarithmic scale. */
const FLOOR = 1e-12;
const HEIGHT = 190;
const PLOT = { left: 54, top: 10, right: 14, bottom: 26 };

/** The lines' own points are drawn while there is room between them. */
const MOST_POINTS = 40;

/** Probability over the rows of the lens, on one canvas. */
export class Chart {
  readonly #canvas: HTMLCanvasElement;
  readonly #stop = new AbortController();
  #input: ChartInput | null = null;
  #width = 0;
  #bottom = 0;
  /** The row under the pointer; -1 if none. */
  #near = -1;

  constructor(
    private readonly host: HTMLElement,
    choose: (point: number) => void,
  ) {
    this.#canvas = host.ownerDocument.createElement("canvas");
    host.append(this.#canvas);
    const options = { signal: this.#stop.signal };
    const point = (event: PointerEvent | null) => {
      const near = event ? this.#rowAt(event.offsetX) : -1;
      if (near === this.#near) return;
      this.#near = near;
      this.#paint();
    };
    this.#canvas.addEventListener("pointermove", point, options);
    this.#canvas.addEventListener("pointerleave", () => point(null), options);
    this.#canvas.addEventListener(
      "click",
      (event) => {
        const row = this.#rowAt(event.offsetX);
        if (row >= 0) choose(row);
      },
      options,
    );
  }

  draw(input: ChartInput): void {
    this.#input = input;
    this.#bottom = input.log ? 10 ** Math.floor(Math.log10(lowest(input.lines))) : 0;
    this.#paint();
  }

  /** Move the line of the present row; nothing else is computed again. */
  mark(at: number): void {
    if (this.#input) this.#input = { ...this.#input, at };
    this.#paint();
  }

  resize(width: number): void {
    this.#width = width;
    this.#paint();
  }

  dispose(): void {
    this.#stop.abort();
    this.#canvas.remove();
  }

  #span(): number {
    return this.#width - PLOT.left - PLOT.right;
  }

  /** Rows stand in the middle of equal parts of the width. */
  #x(row: number): number {
    return PLOT.left + ((row + 0.5) / (this.#input?.labels.length ?? 1)) * this.#span();
  }

  #y(value: number): number {
    const low = Math.log(this.#bottom);
    const t = this.#bottom ? (Math.log(Math.max(value, FLOOR)) - low) / -low : value;
    return HEIGHT - PLOT.bottom - t * (HEIGHT - PLOT.top - PLOT.bottom);
  }

  #rowAt(x: number): number {
    const count = this.#input?.labels.length ?? 0;
    if (x < PLOT.left || x > this.#width - PLOT.right) return -1;
    return clamp(Math.floor(((x - PLOT.left) / this.#span()) * count), 0, count - 1);
  }

  #paint(): void {
    const input = this.#input;
    this.#width ||= Math.max(200, this.host.clientWidth);
    const ratio = window.devicePixelRatio || 1;
    const ctx = this.#canvas.getContext("2d");
    if (!input || !ctx) return;
    this.#canvas.width = Math.round(this.#width * ratio);
    this.#canvas.height = Math.round(HEIGHT * ratio);
    this.#canvas.style.width = `${this.#width}px`;
    this.#canvas.style.height = `${HEIGHT}px`;
    ctx.setTransform(ratio, 0, 0, ratio, 0, 0);
    this.#drawAxes(ctx, input);
    this.#upright(ctx, input.at, input.palette.accent, [], 0.6);
    if (this.#near >= 0) this.#upright(ctx, this.#near, input.palette.faint, [4, 3], 1);
    for (const line of input.lines) this.#drawLine(ctx, line, input.labels.length);
  }

  #drawAxes(ctx: CanvasRenderingContext2D, { palette, font, labels, log }: ChartInput): void {
    ctx.font = `11px ${font}`;
    ctx.textBaseline = "middle";
    ctx.fillStyle = palette.dim;
    ctx.strokeStyle = palette.line;
    ctx.lineWidth = 1;
    ctx.textAlign = "right";
    for (const value of log ? decades(this.#bottom) : [0, 0.25, 0.5, 0.75, 1]) {
      const y = Math.round(this.#y(value)) + 0.5;
      ctx.beginPath();
      ctx.moveTo(PLOT.left, y);
      ctx.lineTo(this.#width - PLOT.right, y);
      ctx.stroke();
      ctx.fillText(log ? power(value) : `${Math.round(value * 100)}%`, PLOT.left - 8, y);
    }
    ctx.textAlign = "center";
    for (const row of rowTicks(labels.length, this.#span())) {
      ctx.fillText(labels[row] ?? "", this.#x(row), HEIGHT - PLOT.bottom / 2 - 1);
    }
  }

  #upright(
    ctx: CanvasRenderingContext2D,
    row: number,
    color: string,
    dash: number[],
    alpha: number,
  ): void {
    const x = Math.round(this.#x(row)) + 0.5;
    ctx.save();
    ctx.strokeStyle = color;
    ctx.globalAlpha = alpha;
    ctx.setLineDash(dash);
    ctx.beginPath();
    ctx.moveTo(x, PLOT.top);
    ctx.lineTo(x, HEIGHT - PLOT.bottom);
    ctx.stroke();
    ctx.restore();
  }

  #drawLine(ctx: CanvasRenderingContext2D, { style, values }: ChartLine, count: number): void {
    ctx.strokeStyle = style.color;
    ctx.fillStyle = style.color;
    ctx.lineWidth = 2;
    ctx.lineJoin = "round";
    ctx.setLineDash(style.dash);
    ctx.beginPath();
    let pen = false;
    values.forEach((value, row) => {
      if (value === null || Number.isNaN(value)) {
        pen = false;
        return;
      }
      if (pen) ctx.lineTo(this.#x(row), this.#y(value));
      else ctx.moveTo(this.#x(row), this.#y(value));
      pen = true;
    });
    ctx.stroke();
    ctx.setLineDash([]);
    values.forEach((value, row) => {
      const radius = row === this.#near ? 3.5 : count <= MOST_POINTS ? 2.5 : 0;
      if (value === null || Number.isNaN(value) || !radius) return;
      ctx.beginPath();
      ctx.arc(this.#x(row), this.#y(value), radius, 0, 2 * Math.PI);
      ctx.fill();
    });
  }
}

function lowest(lines: readonly ChartLine[]): number {
  let low = 0.1;
  for (const { values } of lines) for (const v of values) if (v !== null && v < low) low = v;
  return Math.max(low, FLOOR);
}

/** Evenly spaced rows whose labels do not touch; the last row is always among them. */
export function rowTicks(count: number, width: number): number[] {
  const most = Math.max(2, Math.floor(width / 62));
  const step = Math.max(1, Math.ceil((count - 1) / most));
  const ticks: number[] = [];
  for (let i = count - 1; i >= 0; i -= step) ticks.push(i);
  return ticks.reverse();
}

/** Powers of ten from `bottom` to 1, thinned out to what the height can label. */
export function decades(bottom: number): number[] {
  const depth = Math.max(1, Math.round(-Math.log10(bottom)));
  const step = Math.ceil(depth / 6);
  const out: number[] = [];
  for (let exponent = 0; exponent <= depth; exponent += step) out.push(10 ** -exponent);
  return out.reverse();
}

const SUPERSCRIPTS = "⁰¹²³⁴⁵⁶⁷⁸⁹";

function power(value: number): string {
  if (value >= 0.0001) return `${Number((100 * value).toPrecision(1))}%`;
  const exponent = String(Math.round(-Math.log10(value)));
  return `10⁻${Array.from(exponent, (digit) => SUPERSCRIPTS[Number(digit)]).join("")}`;
}
