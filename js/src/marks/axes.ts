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
}

/** Nothing below this is drawn apart on the logarithmic scale. */
const FLOOR = 1e-12;

type Values = readonly (number | null)[];

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

/** A little room above and below; zero is the end where it is near. */
export function roomy(_: unknown, low: number | null, high: number | null): [number, number] {
  if (low === null || high === null) return [0, 1];
  const span = high - low || Math.abs(high) || 1;
  const [from, to] = [low - 0.06 * span, high + 0.06 * span];
  const nearZero = 0.35 * span;
  return [low >= 0 && low < nearZero ? 0 : from, high <= 0 && -high < nearZero ? 0 : to];
}

function lowest(lines: readonly Values[]): number {
  let low = 0.1;
  for (const line of lines) for (const v of line) if (v !== null && v < low) low = v;
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
