import type { ArrayInfo, ArraysMeta, AxisInfo } from "../../wire/arrays";
import type { RunStore } from "../../wire/store";

export interface Interval {
  low: number;
  high: number;
}

/** A number that is not there yet, or never comes. */
const NONE = Number.NaN;

/** Axes whose entries are layers, of this model or of another one; states count as their block. */
export function isLayers(dim: string): boolean {
  return /^(other\.)?(layer|point)$/.test(dim);
}

/** The axis that the curves of an array run along. */
export function alongOf({ dims }: ArrayInfo): string {
  return dims.find(isLayers) ?? dims[0] ?? "";
}

/** The axis of which each entry has a curve; "" where there is one curve. */
export function eachOf(array: ArrayInfo): string {
  return array.dims.find((dim) => dim !== alongOf(array)) ?? "";
}

/** One run's numbers, asked by entries of their axes, or by layer. */
export class ArraysData<M extends ArraysMeta = ArraysMeta> {
  readonly meta: M;

  constructor(readonly store: RunStore<M>) {
    this.meta = store.meta;
  }

  array(name: string): ArrayInfo | undefined {
    return this.meta.arrays.find((array) => array.name === name);
  }

  size(dim: string): number {
    return this.meta.axes[dim]?.size ?? 0;
  }

  label(dim: string, index: number): string {
    const axis = this.meta.axes[dim];
    const label = axis?.labels[index] ?? String(index);
    // An underscore inside a token is the model's own.
    return axis?.tokens ? label : label.replace("_", " ");
  }

  /** What an axis is called in words. */
  axisName(dim: string): string {
    return this.meta.axes[dim]?.long_name ?? dim;
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

  /** A number; below zero, integers say that there is none. */
  at(name: string, ...index: number[]): number {
    const array = this.store.arrays.get(name);
    const value = array?.at(...index) ?? NONE;
    return Number.isFinite(value) && !(value < 0 && array?.whole) ? value : NONE;
  }

  interval(name: string, ...index: number[]): Interval | null {
    // The interval of a mean over texts goes by the name of what the mean is of.
    const stem = this.store.arrays.has(`${name}_low`) ? name : name.replace(/_mean$/, "");
    const low = this.at(`${stem}_low`, ...index);
    const high = this.at(`${stem}_high`, ...index);
    return Number.isNaN(low) || Number.isNaN(high) ? null : { low, high };
  }

  /** The number of a curve at a place; `k` is the entry that the curve is of where each has one. */
  atPlace(array: ArrayInfo, place: number, k: number | null): number {
    const index = this.#find(array, place, k);
    return index ? this.at(array.name, ...index) : NONE;
  }

  intervalAtPlace(array: ArrayInfo, place: number, k: number | null): Interval | null {
    const index = array.interval ? this.#find(array, place, k) : null;
    return index && this.interval(array.name, ...index);
  }

  /** Places of an axis of layers are layers, those of any other its entries. */
  #find(array: ArrayInfo, place: number, k: number | null): number[] | null {
    const along = alongOf(array);
    const index = isLayers(along) ? this.index(along, place) : place;
    if (index < 0 || index >= this.size(along)) return null;
    if (k === null) return [index];
    return array.dims[0] === along ? [index, k] : [k, index];
  }

  /** Every layer that a curve of these arrays has a place for, in order; one axis for all charts. */
  places(arrays: readonly ArrayInfo[]): number[] {
    let [first, last] = [0, 0];
    for (const dim of arrays.map(alongOf).filter(isLayers)) {
      first = Math.min(first, this.number(dim, 0));
      last = Math.max(last, this.number(dim, this.size(dim) - 1));
    }
    return Array.from({ length: last - first + 1 }, (_, i) => first + i);
  }

  tokenName(id: number): string {
    return id >= 0 ? (this.store.vocab.get(id) ?? `#${id}`) : "–";
  }

  /** The ends of the numbers of an array that have come; null before any has. */
  extent(name: string): Interval | null {
    let [low, high] = [Number.POSITIVE_INFINITY, Number.NEGATIVE_INFINITY];
    const array = this.store.arrays.get(name);
    for (const value of array?.data ?? []) {
      if (!Number.isFinite(value) || (value < 0 && array?.whole)) continue;
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
