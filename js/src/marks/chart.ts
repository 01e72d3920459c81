import uPlot from "uplot";
import type { LineStyle, Palette } from "../theme/palette";

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

/** Probability over the rows of the lens; made anew when lines or theme change. */
export class Chart {
  #plot: uPlot | null = null;
  #at = 0;

  constructor(
    private readonly host: HTMLElement,
    private readonly choose: (point: number) => void,
  ) {}

  draw(input: ChartInput): void {
    this.dispose();
    this.#at = input.at;
    const xs = input.labels.map((_, i) => i);
    const ys = input.lines.map(({ values }) =>
      values.map((v) => (v !== null && input.log ? Math.max(v, FLOOR) : v)),
    );
    const options = this.#options(input, lowest(ys));
    this.#plot = new uPlot(options, [xs, ...ys] as uPlot.AlignedData, this.host);
    this.#plot.over.addEventListener("click", () => {
      const index = this.#plot?.cursor.idx;
      if (typeof index === "number") this.choose(index);
    });
  }

  /** Move the line of the present row; nothing else is computed again. */
  mark(at: number): void {
    this.#at = at;
    this.#plot?.redraw(false, false);
  }

  resize(width: number): void {
    if (this.#plot && width > 0) this.#plot.setSize({ width, height: HEIGHT });
  }

  dispose(): void {
    this.#plot?.destroy();
    this.#plot = null;
  }

  #options(input: ChartInput, low: number): uPlot.Options {
    const { palette, log, labels } = input;
    const font = `11px ${input.font}`;
    const axis = {
      stroke: palette.dim,
      font,
      ticks: { show: false },
      grid: { stroke: palette.line, width: 1 },
    };
    const bottom = log ? 10 ** Math.floor(Math.log10(low)) : 0;
    return {
      width: Math.max(200, this.host.clientWidth),
      height: HEIGHT,
      padding: [10, 14, 0, 0],
      legend: { show: false },
      cursor: { y: false, drag: { x: false, y: false }, points: { size: 7 } },
      scales: {
        x: { time: false, range: [-0.5, labels.length - 0.5] },
        y: log ? { distr: 3, range: [bottom, 1] } : { range: [0, 1] },
      },
      axes: [
        {
          ...axis,
          grid: { show: false },
          size: 26,
          splits: (plot) => rowTicks(labels.length, plot.bbox.width / devicePixelRatio),
          values: (_, splits) => splits.map((i) => labels[i] ?? ""),
        },
        {
          ...axis,
          size: 54,
          splits: log ? () => decades(bottom) : () => [0, 0.25, 0.5, 0.75, 1],
          filter: (_, splits) => splits,
          values: (_, splits) => splits.map((v) => (log ? power(v) : `${Math.round(v * 100)}%`)),
        },
      ],
      series: [
        {},
        ...input.lines.map(({ style }) => ({
          stroke: style.color,
          width: 2,
          dash: style.dash,
          spanGaps: false,
          points: { show: labels.length <= 40, size: 5, fill: style.color, stroke: style.color },
        })),
      ],
      hooks: { drawClear: [(plot) => this.#drawMark(plot, palette)] },
    };
  }

  #drawMark(plot: uPlot, palette: Palette): void {
    const { ctx, bbox } = plot;
    const x = Math.round(plot.valToPos(this.#at, "x", true)) + 0.5;
    ctx.save();
    ctx.strokeStyle = palette.accent;
    ctx.lineWidth = devicePixelRatio;
    ctx.globalAlpha = 0.6;
    ctx.beginPath();
    ctx.moveTo(x, bbox.top);
    ctx.lineTo(x, bbox.top + bbox.height);
    ctx.stroke();
    ctx.restore();
  }
}

function lowest(lines: readonly (readonly (number | null)[])[]): number {
  let low = 0.1;
  for (const line of lines) for (const v of line) if (v !== null && v < low) low = v;
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
