import uPlot from "uplot";
import type { LineStyle, Palette } from "../theme/palette";
import { placeTicks, type Value, type ValueAxis } from "./axes";
import { namedSpots } from "./places";

export interface ChartLine {
  style: LineStyle;
  values: readonly Value[];
  /** Whether its places are things of their own, which no line joins. */
  dots?: boolean | undefined;
  /** How wide it is drawn, where some of the lines stand out; 2 pixels where none does. */
  width?: number | undefined;
  /** The ends of the interval around each value. */
  band?: { low: readonly Value[]; high: readonly Value[] } | undefined;
}

export interface ChartInput {
  /** What values are of, in order; whole numbers. */
  places: readonly number[];
  /** Where these stand along the axis; absent: at their own numbers. */
  spots?: readonly number[] | undefined;
  /** What a place is called under the axis. */
  label(place: number): string;
  /** The places that are named on an axis so wide; by themselves, evenly spaced ones to the last. */
  ticks?: (width: number) => number[];
  lines: readonly ChartLine[];
  axis: ValueAxis;
  palette: Palette;
  font: string;
  height: number;
}

interface Listener {
  choose(place: number): void;
  /** The place under the pointer; null when it leaves. */
  over?(place: number | null): void;
}

/** The lines' own points are drawn where they are so many pixels apart. */
const POINTS_FROM = 18;
const AXIS_WIDTH = 54;
const AXIS_HEIGHT = 26;
/** About half the width of a letter. */
const LETTER = 3.2;
/** How far the ends of an axis lie from its first and last value, in its range. */
const BESIDE = 0.04;

/** Curves over one axis of places, by uPlot; made anew when more changes than the numbers. */
export class Chart {
  #plot: uPlot | null = null;
  #key = "";
  #input: ChartInput | null = null;
  #width = 0;
  #at: number | null = null;
  #cross: number | null = null;

  constructor(
    private readonly host: HTMLElement,
    private readonly listener: Listener,
  ) {}

  draw(input: ChartInput): void {
    this.#input = input;
    const key = keyOf(input);
    if (this.#plot && key === this.#key) this.#plot.setData(dataOf(input));
    else this.#make(key);
    this.#showCross();
  }

  /** Draw the place that is looked at as an upright line. */
  mark(place: number | null): void {
    if (place === this.#at) return;
    this.#at = place;
    this.#plot?.redraw(false, false);
  }

  /** Show a place as if the pointer were there; for charts that are read together. */
  cross(place: number | null): void {
    if (place === this.#cross) return;
    this.#cross = place;
    this.#showCross();
  }

  resize(width: number): void {
    this.#width = width;
    if (this.#plot && this.#input && width > 0) {
      this.#plot.setSize({ width, height: this.#input.height });
    }
  }

  dispose(): void {
    this.#plot?.destroy();
    this.#plot = null;
  }

  #make(key: string): void {
    this.dispose();
    const input = this.#input;
    if (!input) return;
    this.#key = key;
    const plot = new uPlot(this.#options(input), dataOf(input), this.host);
    this.#plot = plot;
    plot.over.addEventListener("click", () => {
      const place = this.#placeOf(plot.cursor.idx);
      if (place !== null) this.listener.choose(place);
    });
  }

  #placeOf(index: number | null | undefined): number | null {
    return typeof index === "number" ? (this.#input?.places[index] ?? null) : null;
  }

  #spot(place: number): number {
    const { places = [], spots } = this.#input ?? {};
    return spots?.[places.indexOf(place)] ?? place;
  }

  #showCross(): void {
    const plot = this.#plot;
    if (!plot) return;
    const left = this.#cross === null ? -10 : plot.valToPos(this.#spot(this.#cross), "x");
    plot.setCursor({ left, top: left < 0 ? -10 : 0 }, false);
  }

  #options(input: ChartInput): uPlot.Options {
    const { palette, places, spots } = input;
    const [first, last] = [this.#spot(places[0] ?? 0), this.#spot(places.at(-1) ?? 0)];
    const beside = spots ? BESIDE * (last - first) : 0.5;
    return {
      width: this.#width || Math.max(200, this.host.clientWidth),
      height: input.height,
      // The last label stands half beside the chart.
      padding: [10, Math.max(14, LETTER * input.label(places.at(-1) ?? 0).length), 0, 0],
      legend: { show: false },
      cursor: {
        y: false,
        // Nothing is dragged, but a line that snaps to a place looks so, and would eat the click.
        drag: { x: false, y: false, click: () => {} },
        points: { size: 7 },
        // The upright line stands on a place, never between two.
        move: (plot, left, top) => [this.#snapped(plot, left), top],
      },
      scales: { x: { time: false, range: [first - beside, last + beside] }, y: input.axis.scale },
      axes: this.#axes(input),
      series: [{}, ...input.lines.flatMap((line) => seriesOf(line, places.length))],
      bands: bandsOf(input.lines, palette),
      hooks: {
        drawClear: [(plot) => this.#drawMark(plot, palette)],
        draw: [(plot) => this.#drawBeyond(plot)],
        // Only of the pointer: what `cross` shows is not told again.
        setCursor: [({ cursor }) => this.listener.over?.(this.#placeOf(cursor.idx))],
      },
    };
  }

  #snapped(plot: uPlot, left: number): number {
    if (left < 0) return left;
    const place = this.#input?.places[plot.posToIdx(left)];
    return place === undefined ? left : plot.valToPos(this.#spot(place), "x");
  }

  #axes({ palette, font, places, spots, label, axis, ticks }: ChartInput): uPlot.Axis[] {
    const most = 2 * LETTER * Math.max(...places.map((place) => label(place).length)) + 8;
    const named = (width: number): number[] => {
      if (ticks) return ticks(width);
      const found = spots ? namedSpots(spots, width, most) : placeTicks(places.length, width);
      return found.map((i) => places[i] ?? 0);
    };
    const common = {
      stroke: palette.dim,
      font: `11px ${font}`,
      ticks: { show: false },
      grid: { stroke: palette.line, width: 1 },
    };
    return [
      {
        ...common,
        grid: { show: false },
        size: AXIS_HEIGHT,
        splits: (plot) =>
          named(plot.bbox.width / devicePixelRatio).map((place) => this.#spot(place)),
        values: (_, splits) =>
          splits.map((spot) => label(spots ? (places[spots.indexOf(spot)] ?? 0) : spot)),
      },
      {
        ...common,
        size: AXIS_WIDTH,
        ...(axis.splits ? { splits: () => axis.splits as number[] } : { space: 26 }),
        // A logarithmic scale would leave labels out by itself.
        filter: (_, splits) => splits,
        values: (_, splits) => splits.map((value) => axis.write(value)),
      },
    ];
  }

  /** Values out of the range: a triangle at its edge in the line's colour, and the number. */
  #drawBeyond(plot: uPlot): void {
    const input = this.#input;
    if (!input?.axis.beyond) return;
    const { ctx, bbox } = plot;
    const px = devicePixelRatio;
    ctx.save();
    ctx.font = `${10 * px}px ${input.font}`;
    ctx.textBaseline = "middle";
    ctx.setLineDash([]);
    for (const { value, place, color, rank, up } of beyondOf(input)) {
      const x = plot.valToPos(this.#spot(place), "x", true);
      const y = (up ? bbox.top : bbox.top + bbox.height) + (up ? 1 : -1) * (6 + 12 * rank) * px;
      const tip = up ? -4 * px : 4 * px;
      ctx.fillStyle = color;
      ctx.beginPath();
      ctx.moveTo(x - 4 * px, y - tip);
      ctx.lineTo(x + 4 * px, y - tip);
      ctx.lineTo(x, y + tip);
      ctx.fill();
      const text = input.axis.write(value);
      const right = x + 8 * px + ctx.measureText(text).width < bbox.left + bbox.width;
      ctx.textAlign = right ? "left" : "right";
      ctx.fillStyle = input.palette.fg;
      ctx.fillText(text, x + (right ? 7 : -7) * px, y);
    }
    ctx.restore();
  }

  #drawMark(plot: uPlot, palette: Palette): void {
    if (this.#at === null) return;
    const { ctx, bbox } = plot;
    const x = Math.round(plot.valToPos(this.#spot(this.#at), "x", true)) + 0.5;
    ctx.save();
    ctx.strokeStyle = palette.accent;
    ctx.lineWidth = devicePixelRatio;
    ctx.globalAlpha = 0.6;
    // The dashes of the line that was drawn last are still set.
    ctx.setLineDash([]);
    ctx.beginPath();
    ctx.moveTo(x, bbox.top);
    ctx.lineTo(x, bbox.top + bbox.height);
    ctx.stroke();
    ctx.restore();
  }
}

/** A line, and after it the ends of its interval, which are not drawn themselves. */
function seriesOf({ style, band, dots, width = 2 }: ChartLine, count: number): uPlot.Series[] {
  const { color, dash } = style;
  const line: uPlot.Series = {
    stroke: color,
    width: dots ? 0 : width,
    dash,
    spanGaps: false,
    points: {
      show: (plot) => dots || plot.bbox.width / devicePixelRatio >= POINTS_FROM * count,
      // No line ends at a value whose neighbours are missing, so it is always drawn.
      filter: (plot, series, all) => (all ? null : alone(plot.data[series])),
      size: 5,
      fill: color,
      stroke: color,
    },
  };
  const edge: uPlot.Series = { points: { show: false } };
  return band ? [line, edge, edge] : [line];
}

/** Where a value stands between two that are missing. */
export function alone(values: ArrayLike<number | null | undefined> = []): number[] {
  const asked = Array.from(values, (_, i) => i).filter((i) => values[i] !== undefined);
  const has = (at: number) => values[asked[at] ?? -1] != null;
  return asked.filter((_, at) => has(at) && !has(at - 1) && !has(at + 1));
}

/** The number of each line's series; that of the first is 1. */
function numbers(lines: readonly ChartLine[]): number[] {
  let next = 1;
  return lines.map(({ band }) => {
    const own = next;
    next += band ? 3 : 1;
    return own;
  });
}

interface Beyond {
  value: number;
  place: number;
  color: string;
  up: boolean;
  /** How many others are marked at this place and edge already. */
  rank: number;
}

/** The values that the range of the axis leaves out, one under the other where they share a place. */
export function beyondOf({ places, lines, axis }: Omit<ChartInput, "font">): Beyond[] {
  const [low, high] = axis.beyond ?? [Number.NEGATIVE_INFINITY, Number.POSITIVE_INFINITY];
  const found: Beyond[] = [];
  for (const { values, style } of lines) {
    values.forEach((value, i) => {
      if (value == null || !(value < low || value > high)) return;
      const [place, up] = [places[i] ?? 0, value > high];
      const rank = found.filter((other) => other.place === place && other.up === up).length;
      found.push({ value, place, color: style.color, up, rank });
    });
  }
  return found;
}

const BAND_OPACITY = { light: 0.13, dark: 0.2 };

function bandsOf(lines: readonly ChartLine[], { name }: Palette): uPlot.Band[] {
  const places = numbers(lines);
  const opacity = Math.round(255 * BAND_OPACITY[name]).toString(16);
  return lines.flatMap(({ band, style }, i) => {
    const series = places[i] ?? 0;
    return band ? [{ series: [series + 2, series + 1], fill: `${style.color}${opacity}` }] : [];
  });
}

function dataOf({ places, spots, lines, axis }: ChartInput): uPlot.AlignedData {
  const { floor } = axis;
  const seen = (values: readonly Value[]) =>
    values.map((v) => {
      if (v === undefined) return v;
      if (v === null || Number.isNaN(v)) return null;
      return floor === undefined ? v : Math.max(v, floor);
    });
  const ys = lines.flatMap(({ values, band }) =>
    band ? [seen(values), seen(band.low), seen(band.high)] : [seen(values)],
  );
  return [[...(spots ?? places)], ...ys];
}

/** Everything that a chart cannot take in without being made anew. */
function keyOf({ places, spots, lines, axis, palette, font, height }: ChartInput): string {
  const styles = lines.map((line) => [line.style, !line.band, line.dots, line.width]);
  return JSON.stringify([spots ?? places, styles, axis.key, palette.name, font, height]);
}
