import type uPlot from "uplot";
import { compact } from "./numbers";

/** The axis of values of one chart. */
export interface ValueAxis {
  /** Another key is another axis: the chart is made anew. */
  key: string;
  scale: uPlot.Scale;
  /** Where labels stand; absent: where uPlot finds round numbers. */
  splits?: number[];
  write(value: number): string;
  /** How a value is drawn that a logarithm cannot show. */
  floor?: number;
  /** The ends of a range that leaves some values out. */
  beyond?: readonly [low: number, high: number];
}

/** Nothing below this is drawn apart on the logarithmic scale. */
const FLOOR = 1e-12;

/** A number; null where one is missing; undefined where none was asked for, and a line goes on. */
export type Value = number | null | undefined;
type Values = readonly Value[];

/** Probabilities: from 0 to 1, or over the powers of ten down to the smallest one that is shown. */
export function shareAxis(lines: readonly Values[], log: boolean): ValueAxis {
  if (!log) {
    return {
      key: "share",
      scale: { range: [0, 1] },
      splits: [0, 0.25, 0.5, 0.75, 1],
      write: (value) => `${Math.round(value * 100)}%`,
    };
  }
  const bottom = 10 ** Math.floor(Math.log10(lowest(lines)));
  return {
    key: `log ${bottom}`,
    scale: { distr: 3, range: [bottom, 1] },
    splits: decades(bottom),
    write: power,
    floor: FLOOR,
  };
}

/** Values of any unit over the range of those that are there. */
export function freeAxis(): ValueAxis {
  return { key: "free", scale: { range: roomy }, write: compact };
}

/** The share of the values, at each end, that may lie apart from the others. */
const APART = 0.05;
/** Fewer values tell nothing of what is usual. */
const ENOUGH = 12;
/** How far beyond the others, in their range, a value must lie to be left out of it. */
const BEYOND = 2;

/** The range of most values where a few lie so far off that they would flatten all others. */
export function usualRange(lines: readonly Values[]): [low: number, high: number] | null {
  const values = lines.flat().filter((v): v is number => v != null && !Number.isNaN(v));
  if (values.length < ENOUGH) return null;
  values.sort((a, b) => a - b);
  const few = Math.floor(APART * values.length);
  const [low, high] = [values[few], values[values.length - 1 - few]] as [number, number];
  const span = high - low;
  const far = (value: number) => Math.max(low - value, value - high) > BEYOND * span;
  if (few === 0 || span === 0) return null;
  const kept = values.filter((value) => !far(value));
  if (kept.length === values.length) return null;
  return [kept[0] as number, kept.at(-1) as number];
}

/** Values over the range of most of them; those beyond it are marked at its edge. */
export function usualAxis([low, high]: readonly [low: number, high: number]): ValueAxis {
  const range = roomy(null, low, high);
  return { key: `usual ${range.join()}`, scale: { range }, write: compact, beyond: range };
}

/** Positive values of any unit over whole powers of ten. */
export function logAxis(low: number, high: number): ValueAxis {
  const from = Math.floor(Math.log10(low) + 1e-9);
  const to = Math.max(from + 1, Math.ceil(Math.log10(high) - 1e-9));
  const step = Math.ceil((to - from) / 5);
  const splits: number[] = [];
  for (let exponent = from; exponent <= to; exponent += step) splits.push(10 ** exponent);
  return {
    key: `log ${from} ${to}`,
    scale: { distr: 3, range: [10 ** from, 10 ** to] },
    splits,
    write: compact,
  };
}

/** The least range, as a share of the values: in less, labels of four digits would be alike. */
const LEAST = 0.01;

/** A little room above and below; zero is the end where it is near. */
export function roomy(_: unknown, low: number | null, high: number | null): [number, number] {
  if (low === null || high === null || (low === 0 && high === 0)) return [0, 1];
  const span = Math.max(high - low, LEAST * Math.max(Math.abs(low), Math.abs(high)));
  const middle = (low + high) / 2;
  const [from, to] = [middle - 0.56 * span, middle + 0.56 * span];
  const nearZero = 0.35 * span;
  return [low >= 0 && low < nearZero ? 0 : from, high <= 0 && -high < nearZero ? 0 : to];
}

function lowest(lines: readonly Values[]): number {
  let low = 0.1;
  for (const line of lines) for (const v of line) if (v != null && v < low) low = v;
  return Math.max(low, FLOOR);
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

/** Layers by round numbers; the embedding by its name, which takes the place of the first ones. */
export function layerTicks(places: readonly number[], width: number): number[] {
  const [first, last] = [places[0] ?? 0, places.at(-1) ?? 0];
  const apart = width / Math.max(1, places.length);
  const step = [1, 2, 5, 10, 20, 50].find((size) => size * apart >= 30) ?? 100;
  const ticks: number[] = first < 0 ? [first] : [];
  for (let place = 0; place <= last; place += step) {
    const close = first < 0 && (place - first) * apart < 34;
    if (!close) ticks.push(place);
  }
  return ticks;
}
