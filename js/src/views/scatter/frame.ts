import type { Extent } from "./data";

/** What a picture shows of the plane: the ends of both axes. */
export interface Window {
  left: number;
  right: number;
  bottom: number;
  top: number;
}

/** The inside of a picture's frame, in pixels of the canvas. */
export interface Inside {
  x: number;
  y: number;
  width: number;
  height: number;
}

const ROOM = 0.05;

/** The window that holds an extent with a little room; of one scale where axes are equal. */
export function windowOf({ x, y }: Extent, equal: boolean, inside: Inside): Window {
  const span = ([low, high]: readonly [number, number]) => high - low || Math.abs(high) || 1;
  let [wide, high] = [span(x) * (1 + 2 * ROOM), span(y) * (1 + 2 * ROOM)];
  if (equal) {
    const unit = Math.max(wide / inside.width, high / inside.height);
    [wide, high] = [unit * inside.width, unit * inside.height];
  }
  const [across, up] = [(x[0] + x[1]) / 2, (y[0] + y[1]) / 2];
  return {
    left: across - wide / 2,
    right: across + wide / 2,
    bottom: up - high / 2,
    top: up + high / 2,
  };
}

/** Between two windows. */
export function between(from: Window, to: Window, part: number): Window {
  const mix = (key: keyof Window) => from[key] + (to[key] - from[key]) * part;
  return { left: mix("left"), right: mix("right"), bottom: mix("bottom"), top: mix("top") };
}

/** Round numbers between two ends, about so many. */
export function ticks(low: number, high: number, count: number): number[] {
  const rough = (high - low) / Math.max(1, count);
  if (!(rough > 0) || !Number.isFinite(rough)) return [];
  const size = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 5, 10].map((by) => by * size).find((one) => one >= rough * 0.999) ?? size;
  const found: number[] = [];
  for (let i = Math.ceil(low / step); i * step <= high; i++) {
    found.push(Number((i * step).toPrecision(12)));
  }
  return found;
}
