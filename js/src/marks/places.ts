/** By so much steps may differ that only rounding tells apart. */
const EVEN = 1.001;
/** Steps of which the smallest could not be seen beside the largest. */
const UNEVEN = 30;

/**
 * Where numbers stand along an axis: each at itself; by the logarithm of its distance from 0, where
 * they span decades. null where they do not rise, or by even steps, which their order shows as well.
 * The figures have the same rule (layerlens/figures/places.py).
 */
export function spotsOf(values: readonly number[]): number[] | null {
  const steps = values.slice(1).map((value, i) => value - (values[i] ?? 0));
  const [least, most] = [Math.min(...steps), Math.max(...steps)];
  if (!(least > 0) || !(most > EVEN * least)) return null;
  if (most < UNEVEN * least) return [...values];
  const unit = Math.min(...values.map(Math.abs).filter((size) => size > 0));
  return values.map((value) => Math.sign(value) * Math.log1p(Math.abs(value) / unit));
}

/** Which places are named: the last, and before it those whose labels do not touch. */
export function namedSpots(spots: readonly number[], width: number, label: number): number[] {
  const span = (spots.at(-1) ?? 0) - (spots[0] ?? 0) || 1;
  const named: number[] = [];
  for (let i = spots.length - 1; i >= 0; i--) {
    const next = spots[named.at(-1) ?? Number.NaN] ?? Number.POSITIVE_INFINITY;
    if (((next - (spots[i] ?? 0)) / span) * width >= label) named.push(i);
  }
  return named.reverse();
}
