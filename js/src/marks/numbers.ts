/** "0.87" with a true minus, and no sign before a rounded zero. */
export function written(value: number, digits = 2): string {
  const text = value.toFixed(digits);
  return Number(text) === 0 ? text.replace("-", "") : text.replace("-", "−");
}

const UNITS = ["", "k", "M", "G", "T"];

/** A number in a few characters, whatever its size: 12.35k, 0.042, 3.1e−7. */
export function compact(value: number, digits = 4): string {
  if (Number.isNaN(value)) return "–";
  if (value === 0) return "0";
  if (!Number.isFinite(value)) return value > 0 ? "∞" : "−∞";
  const size = Math.abs(value);
  let text: string;
  if (size < 1e-3) text = Number(value.toPrecision(digits - 1)).toExponential();
  else {
    // Rounded first: 999.96 is 1.00k and not 1000.
    const rounded = Number(value.toPrecision(digits));
    const step = Math.min(UNITS.length - 1, Math.floor(Math.log10(Math.abs(rounded)) / 3));
    const unit = step > 0 && Math.abs(rounded) >= 10_000 ? step : 0;
    text = `${Number((rounded / 1000 ** unit).toPrecision(digits))}${UNITS[unit]}`;
  }
  return text.replaceAll("-", "−");
}

export interface Ends {
  low: number;
  high: number;
}

/** The smallest and the largest of the numbers that count; null where none does. */
export function endsOf(
  values: Iterable<number>,
  counts: (value: number) => boolean = Number.isFinite,
): Ends | null {
  let [low, high] = [Number.POSITIVE_INFINITY, Number.NEGATIVE_INFINITY];
  for (const value of values) {
    if (!counts(value)) continue;
    if (value < low) low = value;
    if (value > high) high = value;
  }
  return low <= high ? { low, high } : null;
}
