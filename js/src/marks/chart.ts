import uPlot from "uplot";
import type { LineStyle, Palette } from "../theme/palette";
import type { Value, ValueAxis } from "./axes";
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
/** Names turned by half a right angle take so much of their length across and down. */
const TURNED = 0.71;
/** From one turned name to the next. */
const TURNED_APART = 16;
/** From one number of an even axis to the next. */
const APART = 62;
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
      this.#plot.setSize({ width, height: this.#height(this.#input) });
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

  /** How long turned names are, across and down; 0 where names have room beside each other. */
  #turned({ places, label, lines }: ChartInput): number {
    const longest = widest(places, label);
    const room = this.#wide() - AXIS_WIDTH;
    return lines.some(({ dots }) => dots) && places.length * longest > room ? TURNED * longest : 0;
  }

  #wide(): number {
    return this.#width || Math.max(200, this.host.clientWidth);
  }

  #height(input: ChartInput): number {
    return input.height + this.#turned(input);
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
      width: this.#wide(),
      height: this.#height(input),
      // The last label stands half beside the chart, the first that is turned nearly whole.
      padding: [
        10,
        () => (this.#turned(input) ? 14 : Math.max(14, widest(places.slice(-1), input.label) / 2)),
        0,
        () => Math.max(0, this.#turned(input) - AXIS_WIDTH),
      ],
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

  #axes(input: ChartInput): uPlot.Axis[] {
    const { palette, font, places, spots, label, axis, ticks } = input;
    const most = widest(places, label);
    const named = (width: number): number[] => {
      if (ticks) return ticks(width);
      const flat = spots ? most : Math.max(APART, most);
      const apart = this.#turned(input) ? TURNED_APART : flat;
      return namedSpots(spots ?? places, width, apart).map((i) => places[i] ?? 0);
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
        size: () => AXIS_HEIGHT + this.#turned(input),
        // Names rise towards their places.
        rotate: () => (this.#turned(input) ? 45 : 0),
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

/** The room that the longest name takes. */
function widest(places: readonly number[], label: (place: number) => string): number {
  return 2 * LETTER * Math.max(...places.map((place) => label(place).length)) + 8;
}

/** A line, and after it the ends of its interval, which are not drawn themselves. */
export function seriesOf(
  { style, band, dots, width = 2 }: ChartLine,
  count: number,
): uPlot.Series[] {
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
      size: dots ? 7 : 5,
      fill: color,
      stroke: color,
    },
  };
  const edge: uPlot.Series = { points: { show: false } };
  // Of things of their own each interval is a bar, and no band runs from one to the next.
  const low = dots ? { ...edge, stroke: color, width: 1.5, paths: bars } : edge;
  return band ? [line, low, edge] : [line];
}

/** An upright bar from each value to that of the next series. */
const bars: uPlot.Series.PathBuilder = (plot, series, first, last) => {
  const stroke = new Path2D();
  const [xs, lows, highs] = [0, series, series + 1].map((i) => plot.data[i] ?? []);
  for (let i = first; i <= last; i++) {
    const [x, low, high] = [xs?.[i], lows?.[i], highs?.[i]];
    if (x == null || low == null || high == null) continue;
    stroke.moveTo(plot.valToPos(x, "x", true), plot.valToPos(low, "y", true));
    stroke.lineTo(plot.valToPos(x, "x", true), plot.valToPos(high, "y", true));
  }
  return { stroke };
};

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

export function bandsOf(lines: readonly ChartLine[], { name }: Palette): uPlot.Band[] {
  const places = numbers(lines);
  const opacity = Math.round(255 * BAND_OPACITY[name]).toString(16);
  return lines.flatMap(({ band, dots, style }, i) => {
    const series = places[i] ?? 0;
    return band && !dots
      ? [{ series: [series + 2, series + 1], fill: `${style.color}${opacity}` }]
      : [];
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
