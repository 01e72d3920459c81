/** Numbers as they are written in the view: always the same digits, so that columns line up. */

export function percent(p: number): string {
  if (Number.isNaN(p)) return "–";
  if (p > 0 && p < 0.00005) return "<0.01%";
  return `${(100 * p).toFixed(2)}%`;
}

export function nats(value: number): string {
  return Number.isNaN(value) ? "–" : `${value.toFixed(3)} nats`;
}

export function whole(value: number): string {
  // A thin space groups thousands in every language.
  return Number.isNaN(value) ? "–" : String(value).replace(/\B(?=(\d{3})+$)/g, "\u2009");
}

/** A small error such as 3.1e-7, and 0 as 0. */
export function scientific(value: number): string {
  if (value === 0) return "0";
  if (!Number.isFinite(value)) return String(value);
  return Math.abs(value) >= 0.01 && Math.abs(value) < 1000
    ? String(Number(value.toPrecision(3)))
    : value.toExponential(1);
}

/** How long something will take, as far as it can be known. */
export function roughly(value: number): string {
  return value >= 90 ? `${Math.round(value / 60)} min` : `${Math.ceil(value)} s`;
}

export function seconds(value: number): string {
  if (!(value > 0)) return "";
  if (value >= 90) return `${Math.round(value / 60)} min`;
  return value < 10 ? `${value.toFixed(2)} s` : `${value.toFixed(0)} s`;
}
