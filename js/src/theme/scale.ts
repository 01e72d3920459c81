import { compact, type Ends } from "../marks/numbers";
import type { ColorMode } from "../wire/lens";
import { inkOn, type Rgb, rampColors, tableColors, toCss } from "./colors";
import type { Palette } from "./palette";
import { cividis, viridis } from "./tables";

export interface Tick {
  /** Place along the legend, 0 to 1. */
  at: number;
  label: string;
}

/** By so much of the scale a number may pass an end and still look like it. */
const SLACK = 0.01;

/** Number → colour, with the ink to write on it; made anew when mode, theme or range change. */
export class ColorScale {
  readonly fills: readonly string[];
  #inks: readonly string[] | null = null;

  constructor(
    readonly label: string,
    readonly unit: string,
    private readonly low: number,
    private readonly high: number,
    private readonly log: boolean,
    readonly colors: readonly Rgb[],
    readonly ticks: readonly Tick[],
    /** Whether colours go with the root of a number, so that small ones can be told apart. */
    private readonly root = false,
  ) {
    this.fills = colors.map(toCss);
  }

  /** What can be read on each fill; many pictures have nothing written on them. */
  get inks(): readonly string[] {
    this.#inks ??= this.colors.map((color) => toCss(inkOn(color)));
    return this.#inks;
  }

  /** Index into the 256 colours, clamped to the ends; -1 where there is no number. */
  index(value: number): number {
    const t = this.place(value);
    return Number.isNaN(t) ? -1 : Math.round(t * 255);
  }

  /** Where a value lies along the legend, 0 to 1. */
  place(value: number): number {
    const { low, high } = this;
    const t = this.log
      ? Math.log(value / low) / Math.log(high / low)
      : (value - low) / (high - low);
    const inside = Math.min(1, Math.max(0, t));
    return this.root ? Math.sqrt(inside) : inside;
  }

  /** The end of the colours that a value lies past: 1 the upper one, -1 the lower one, else 0. */
  past(value: number): number {
    const slack = SLACK * (this.high - this.low);
    return Number(value > this.high + slack) - Number(value < this.low - slack);
  }

  /** What of the numbers between two is drawn like an end of the colours, and marked. */
  pastWords({ low, high }: Ends): string {
    const under = this.past(low) < 0 ? [`▼ below ${compact(this.low)}: to ${compact(low, 3)}`] : [];
    const over =
      this.past(high) > 0 ? [`▲ above ${compact(this.high)}: to ${compact(high, 3)}`] : [];
    return [...under, ...over].join(", ");
  }

  /** The legend's bar as CSS. */
  gradient(): string {
    const stops: string[] = [];
    for (let i = 0; i < 256; i += 15) stops.push(this.fills[i] as string);
    return `linear-gradient(to right, ${stops.join(", ")})`;
  }
}

const PERCENT_TICKS: Tick[] = [0, 0.25, 0.5, 0.75, 1].map((at) => ({
  at,
  label: `${Math.round(at * 100)}`,
}));

/** 1, 2 or 5 times a power of ten, so that about four fit into a span. */
function roundStep(span: number): number {
  const rough = span / 4;
  const power = 10 ** Math.floor(Math.log10(rough));
  return [1, 2, 5, 10].map((m) => m * power).find((s) => s >= rough * 0.999) ?? rough;
}

function linearTicks(high: number, low = 0): Tick[] {
  const step = roundStep(high - low);
  const ticks: Tick[] = [];
  // At multiples of the step, wherever the ends are.
  for (let n = Math.ceil(low / step - ROUNDED); n * step <= high + ROUNDED * step; n++) {
    const value = Number((n * step).toPrecision(6));
    ticks.push({ at: (value - low) / (high - low), label: compact(value) });
  }
  return ticks;
}

function decadeTicks(high: number): Tick[] {
  const ticks: Tick[] = [];
  for (let value = 1; value <= high; value *= 10) {
    const label = value < 1000 ? String(value) : `${value / 1000}k`;
    ticks.push({ at: Math.log(value) / Math.log(high), label });
  }
  return ticks;
}

export interface ScaleInput {
  mode: ColorMode;
  palette: Palette;
  vocabulary: number;
  /** Largest divergence in the picture; only used by "kl". */
  klMax: number;
  trackedText: string;
  /** Whose rank is shown. */
  ranked?: string;
}

/**
 * The scale of one colour mode. In every sequential table dark is what a settled row looks like:
 * certain, near the final row, the right token first. Ranges are fixed by the quantity wherever it has a natural end.
 */
export function makeScale(input: ScaleInput): ColorScale {
  const { mode, palette, vocabulary } = input;
  const most = Math.max(vocabulary, 2);
  switch (mode) {
    case "probability":
      return shareScale(palette, palette.base, "Probability of the top token");
    case "written":
      return shareScale(palette, palette.base, "Probability of the written token");
    case "margin":
      return shareScale(palette, palette.base, "Top probability minus the second");
    case "tracked": {
      const label = `Probability of ${input.trackedText || "the tracked token"}`;
      return shareScale(palette, palette.trackedBase, label);
    }
    case "entropy": {
      const high = Math.log(most);
      const colors = tableColors(viridis);
      return new ColorScale("Entropy", "nats", 0, high, false, colors, linearTicks(high));
    }
    case "kl": {
      const high = Math.max(1, Math.ceil(input.klMax));
      const colors = tableColors(cividis);
      return new ColorScale(
        "KL to the final row",
        "nats",
        0,
        high,
        false,
        colors,
        linearTicks(high),
      );
    }
    case "rank": {
      const colors = tableColors(viridis);
      const label = `Rank of the ${input.ranked ?? "next"} token`;
      return new ColorScale(label, "log, 1 = best", 1, most, true, colors, decadeTicks(most));
    }
  }
}

/** Shares of 1 as percents, from the page itself to one colour. */
function shareScale(palette: Palette, full: string, label: string): ColorScale {
  const colors = rampColors([palette.bg, full]);
  return new ColorScale(label, "%", 0, 1, false, colors, PERCENT_TICKS);
}

/** An estimate of zero may fall a little below it; that makes no second side. */
const FAINT = 0.1;
/** What is larger than a round end by less was rounded on its way. */
const ROUNDED = 1e-3;

/**
 * The scale of numbers whose range is only known from them: to round ends, from zero unless all lie
 * far from it, and diverging where there are numbers on both sides.
 */
export function rangeScale(
  palette: Palette,
  low: number,
  high: number,
  label: string,
  unit: string,
): ColorScale {
  if (low < -FAINT * Math.max(high, 0)) {
    return bothWays(palette, 0, roundUp(Math.max(-low, high)), label, unit);
  }
  const most = high > 0 ? high : 1;
  const step = roundStep(low > 0.5 * most && low < most ? most - low : most);
  const from = low > 0.5 * most ? Math.floor(low / step) * step : 0;
  const to = Math.max(from + step, Math.ceil(most / step - ROUNDED) * step);
  const colors = tableColors(viridis);
  return new ColorScale(label, unit, from, to, false, colors, linearTicks(to, from));
}

/**
 * The scale of what changes: its centre is the page, one colour lies above it and one below, and no
 * half of it is idle. `reach` is how far colours go from the centre.
 */
export function effectScale(
  palette: Palette,
  [low, high]: readonly [low: number, high: number],
  [centre, reach]: readonly [centre: number, reach: number],
  label: string,
  unit: string,
): ColorScale {
  const [from, to] = [centre - reach, centre + reach];
  if (low >= centre - FAINT * reach) {
    const colors = rampColors([palette.bg, palette.base]);
    return new ColorScale(label, unit, centre, to, false, colors, linearTicks(to, centre));
  }
  if (high <= centre + FAINT * reach) {
    const colors = rampColors([palette.negative, palette.bg]);
    return new ColorScale(label, unit, from, centre, false, colors, linearTicks(centre, from));
  }
  return bothWays(palette, centre, reach, label, unit);
}

function bothWays(
  palette: Palette,
  centre: number,
  reach: number,
  label: string,
  unit: string,
): ColorScale {
  const colors = rampColors([palette.negative, palette.bg, palette.positive]);
  const ticks = [-1, -0.5, 0, 0.5, 1].map((t) => {
    return { at: (t + 1) / 2, label: compact(centre + t * reach, 3) };
  });
  return new ColorScale(label, unit, centre - reach, centre + reach, false, colors, ticks);
}

function roundUp(value: number): number {
  const step = roundStep(value);
  return Math.ceil(value / step - ROUNDED) * step;
}

/** The parts of the largest weight that a legend names. */
const ROOT_TICKS = [0, 0.1, 0.3, 0.6, 1];

/** Weights from 0, the page itself, to the largest one that is drawn, by their roots. */
export function weightScale(palette: Palette, most: number, label: string): ColorScale {
  const high = most > 0 ? most : 1;
  const colors = rampColors([palette.bg, palette.accent]);
  const ticks = ROOT_TICKS.map((part) => ({
    at: Math.sqrt(part),
    label: compact(part * high, 2),
  }));
  return new ColorScale(label, "by roots", 0, high, false, colors, ticks, true);
}

/** From -1 (red) over 0 (the page) to 1 (blue); what lies beyond is drawn like the ends. */
export function divergingScale(palette: Palette, label: string, unit: string): ColorScale {
  return bothWays(palette, 0, 1, label, unit);
}
