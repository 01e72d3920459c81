import type { ArrayInfo, AxisInfo, MetricsMeta } from "../../wire/metrics";
import type { RunStore } from "../../wire/store";

export interface Interval {
  low: number;
  high: number;
}

/** A number that is not there yet, or never comes. */
const NONE = Number.NaN;

/** One run's numbers, asked by layer. */
export class MetricsData {
  readonly meta: MetricsMeta;

  constructor(readonly store: RunStore<MetricsMeta>) {
    this.meta = store.meta;
  }

  array(name: string): ArrayInfo | undefined {
    return this.meta.arrays.find((array) => array.name === name);
  }

  size(dim: string): number {
    return this.meta.axes[dim]?.size ?? 0;
  }

  label(dim: string, index: number): string {
    return (this.meta.axes[dim]?.labels[index] ?? String(index)).replace("_", " ");
  }

  /** The layer or head of an entry; -1 is the embedding. */
  number(dim: string, index: number): number {
    return this.meta.axes[dim]?.numbers?.[index] ?? index;
  }

  /** The entry of a layer or head; -1 where the axis has none. */
  index(dim: string, number: number): number {
    const { numbers, size } = this.meta.axes[dim] ?? { numbers: null, size: 0 };
    if (numbers) return numbers.indexOf(number);
    return number >= 0 && number < size ? number : -1;
  }

  at(name: string, ...index: number[]): number {
    const value = this.store.arrays.get(name)?.at(...index) ?? NONE;
    return Number.isFinite(value) ? value : NONE;
  }

  interval(name: string, ...index: number[]): Interval | null {
    const low = this.at(`${name}_low`, ...index);
    const high = this.at(`${name}_high`, ...index);
    return Number.isNaN(low) || Number.isNaN(high) ? null : { low, high };
  }

  /** The number at a layer; `k` is the line where there are several. */
  atLayer(array: ArrayInfo, layer: number, k: number | null): number {
    const place = this.#place(array, layer, k);
    return place ? this.at(array.name, ...place) : NONE;
  }

  intervalAtLayer(array: ArrayInfo, layer: number, k: number | null): Interval | null {
    const place = array.interval ? this.#place(array, layer, k) : null;
    return place && this.interval(array.name, ...place);
  }

  #place(array: ArrayInfo, layer: number, k: number | null): number[] | null {
    const index = this.index(array.dims[0] ?? "", layer);
    if (index < 0) return null;
    return k === null ? [index] : [index, k];
  }

  /** Every layer that a curve of these arrays has a place for, in order; one axis for all charts. */
  places(arrays: readonly ArrayInfo[]): number[] {
    let [first, last] = [0, 0];
    for (const { dims } of arrays) {
      const dim = dims[0] ?? "";
      first = Math.min(first, this.number(dim, 0));
      last = Math.max(last, this.number(dim, this.size(dim) - 1));
    }
    return Array.from({ length: last - first + 1 }, (_, i) => first + i);
  }

  tokenName(id: number): string {
    return id < 0 ? "–" : (this.store.vocab.get(id) ?? `#${id}`);
  }

  /** The ends of the numbers of an array that have come; null before any has. */
  extent(name: string): Interval | null {
    let [low, high] = [Number.POSITIVE_INFINITY, Number.NEGATIVE_INFINITY];
    for (const value of this.store.arrays.get(name)?.data ?? []) {
      if (!Number.isFinite(value)) continue;
      if (value < low) low = value;
      if (value > high) high = value;
    }
    return low <= high ? { low, high } : null;
  }
}

const ORDINALS = ["largest", "2nd largest", "3rd largest"];

/** "head 3"; an axis that only counts the largest has ordinals, from 0. */
export function entryName(dim: string, axis: AxisInfo | undefined, index: number): string {
  const label = axis?.labels[index] ?? String(index);
  if (dim.replace(/^other\./, "") === "k") return ORDINALS[index] ?? `${index + 1}th largest`;
  return `${axis?.long_name ?? ""} ${label}`.trim();
}

/** "embed" before the first block, else the number of the layer. */
export function placeName(place: number): string {
  return place < 0 ? "embed" : String(place);
}

/** "layer 5", or "embed". */
export function layerName(place: number): string {
  return place < 0 ? placeName(place) : `layer ${place}`;
}

/** A unit as it is written after a name; nothing for a bare number. */
export function unitName(units: string): string {
  return units === "1" ? "" : units.replace("^2", "²");
}
