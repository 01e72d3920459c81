import { type Ends, endsOf } from "../../marks/numbers";
import type { ArrayInfo, ArraysMeta, AxisInfo } from "../../wire/arrays";
import type { RunStore } from "../../wire/store";

/** A number that is not there yet, or never comes. */
const NONE = Number.NaN;

/** What the entries of an axis are; of metrics the axis's own name says it. */
export function roleOf(dim: string, axis: AxisInfo | undefined): string {
  if (axis?.role !== undefined) return axis.role;
  const own = dim.replace(/^other\./, "");
  if (own === "head") return "head";
  return /^(layer|point)(_other)?$/.test(own) ? "layer" : "";
}

/** Whether an axis runs through the layers, one entry for each. */
export function isDepth(dim: string, { axes }: ArraysMeta): boolean {
  const numbers = axes[dim]?.numbers ?? [];
  const rising = numbers.every((number, i) => i === 0 || number > (numbers[i - 1] as number));
  return roleOf(dim, axes[dim]) === "layer" && rising;
}

/** The axis that the curves of an array run along. */
export function alongOf({ dims, kind, across }: ArrayInfo, meta: ArraysMeta): string {
  if (across && kind !== "grid") return across;
  return dims.find((dim) => isDepth(dim, meta)) ?? dims[0] ?? "";
}

/** The axis of which each entry has a curve; "" where there is one curve. */
export function eachOf(array: ArrayInfo, meta: ArraysMeta): string {
  const along = alongOf(array, meta);
  return array.dims.find((dim) => dim !== along) ?? "";
}

/** One run's numbers, asked by entries of their axes, or by layer. */
export class ArraysData<M extends ArraysMeta = ArraysMeta> {
  readonly meta: M;
  readonly #arrays: ReadonlyMap<string, ArrayInfo>;

  constructor(readonly store: RunStore<M>) {
    this.meta = store.meta;
    this.#arrays = new Map(this.meta.arrays.map((array) => [array.name, array]));
  }

  array(name: string): ArrayInfo | undefined {
    return this.#arrays.get(name);
  }

  /** "layer", "head", "position" or nothing that views share. */
  role(dim: string): string {
    return roleOf(dim, this.meta.axes[dim]);
  }

  isDepth(dim: string): boolean {
    return isDepth(dim, this.meta);
  }

  size(dim: string): number {
    return this.meta.axes[dim]?.size ?? 0;
  }

  label(dim: string, index: number): string {
    const label = this.meta.axes[dim]?.labels[index] ?? String(index);
    // "0_post": a layer and its state. Other underscores are the model's own.
    return this.role(dim) === "layer" ? label.replace("_", " ") : label;
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

  at(name: string, ...index: number[]): number {
    const value = this.store.arrays.get(name)?.at(...index) ?? NONE;
    return this.#is(name, value) ? value : NONE;
  }

  /** Whether a number is one, and not what stands for none. */
  #is(name: string, value: number): boolean {
    if (!Number.isFinite(value)) return false;
    const { dtype = "float", missing = null } = this.#arrays.get(name) ?? {};
    if (dtype === "float") return true;
    return missing === null ? value >= 0 : value !== missing;
  }

  interval(name: string, ...index: number[]): Ends | null {
    const own = this.#arrays.get(name);
    const low = this.at(own?.low || `${name}_low`, ...index);
    const high = this.at(own?.high || `${name}_high`, ...index);
    return Number.isNaN(low) || Number.isNaN(high) ? null : { low, high };
  }

  /** The number of a curve at a place; `k` is the entry that the curve is of where each has one. */
  atPlace(array: ArrayInfo, place: number, k: number | null): number {
    const index = this.find(array, place, k);
    return index ? this.at(array.name, ...index) : NONE;
  }

  intervalAtPlace(array: ArrayInfo, place: number, k: number | null): Ends | null {
    const index = array.interval ? this.find(array, place, k) : null;
    return index && this.interval(array.name, ...index);
  }

  /** The cell at a place; places of an axis of layers are layers, those of any other its entries. */
  find(array: ArrayInfo, place: number, k: number | null): number[] | null {
    const along = alongOf(array, this.meta);
    const index = this.isDepth(along) ? this.index(along, place) : place;
    if (index < 0 || index >= this.size(along)) return null;
    if (k === null) return [index];
    return array.dims[0] === along ? [index, k] : [k, index];
  }

  /** Every layer that a curve of these arrays has a place for, in order; one axis for all charts. */
  places(arrays: readonly ArrayInfo[]): number[] {
    let [first, last] = [0, 0];
    for (const array of arrays) {
      const dim = alongOf(array, this.meta);
      if (!this.isDepth(dim)) continue;
      first = Math.min(first, this.number(dim, 0));
      last = Math.max(last, this.number(dim, this.size(dim) - 1));
    }
    return Array.from({ length: last - first + 1 }, (_, i) => first + i);
  }

  tokenName(id: number): string {
    return id >= 0 ? (this.store.vocab.get(id) ?? `#${id}`) : "–";
  }

  /** The ends of the numbers of an array that have come; null before any has. */
  extent(name: string): Ends | null {
    return endsOf(this.store.arrays.get(name)?.data ?? [], (value) => this.#is(name, value));
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
