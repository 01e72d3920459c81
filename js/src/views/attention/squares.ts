import type { Square } from "../../marks/square";
import type { Reduce } from "../../wire/attention";
import type { Slice } from "../../wire/slice";

/** The weights of some heads, taken together, without some keys. */
export function squareOf(
  slice: Slice,
  heads: readonly number[],
  reduce: Reduce,
  left: readonly boolean[] | null,
): Square {
  const { queries, keys } = slice;
  const values = new Float32Array(queries * keys).fill(Number.NaN);
  const max = reduce === "max";
  const [only, second] = heads;
  const coded = only !== undefined && second === undefined ? codedOf(slice, only) : undefined;
  heads.forEach((head, nth) => {
    const bytes = slice.head(head);
    const numbers = slice.numbers(head);
    for (let query = 0, at = 0; query < queries; query++) {
      const end = query * keys + slice.seen(query);
      for (let place = query * keys; place < end; place++, at++) {
        const value = numbers[bytes[at] as number] as number;
        if (nth === 0) values[place] = value;
        else if (max) values[place] = Math.max(values[place] as number, value);
        else values[place] = (values[place] as number) + value;
      }
    }
  });
  if (!max && heads.length > 1)
    for (let i = 0; i < values.length; i++) values[i] = (values[i] as number) / heads.length;
  if (left) leaveOut(values, keys, left);
  const { low, high } = ends(values);
  return { queries, keys, values, low, high, signed: low < 0, ...(coded && { coded }) };
}

/** A head's bytes, each pair's in its place. */
function codedOf(slice: Slice, head: number): NonNullable<Square["coded"]> {
  const { queries, keys } = slice;
  const bytes = new Uint8Array(queries * keys);
  const all = slice.head(head);
  for (let query = 0, at = 0; query < queries; query++) {
    const seen = Math.max(0, slice.seen(query));
    bytes.set(all.subarray(at, at + seen), query * keys);
    at += seen;
  }
  return { bytes, numbers: slice.numbers(head) };
}

/** The second minus the first; null where they are not of one shape. */
export function differenceOf(first: Square, second: Square): Square | null {
  if (first.queries !== second.queries || first.keys !== second.keys) return null;
  const values = second.values.map((value, i) => value - (first.values[i] as number));
  const { low, high } = ends(values);
  const most = Math.max(-low, high);
  const { queries, keys } = first;
  return { queries, keys, values, low: -most, high: most, signed: true };
}

function leaveOut(values: Float32Array, keys: number, left: readonly boolean[]): void {
  for (let key = 0; key < keys; key++) {
    if (!left[key]) continue;
    for (let at = key; at < values.length; at += keys) values[at] = Number.NaN;
  }
}

function ends(values: Float32Array): { low: number; high: number } {
  let low = 0;
  let high = 0;
  for (let i = 0; i < values.length; i++) {
    const value = values[i] as number;
    // NaN is neither below nor above.
    if (value < low) low = value;
    else if (value > high) high = value;
  }
  return { low, high };
}

/** The share of all weight that some keys hold. */
export function massOn(slice: Slice, heads: readonly number[], keys: readonly boolean[]): number {
  let held = 0;
  let whole = 0;
  for (const head of heads) {
    const bytes = slice.head(head);
    const numbers = slice.numbers(head);
    for (let query = 0, at = 0; query < slice.queries; query++) {
      const seen = slice.seen(query);
      for (let key = 0; key < seen; key++, at++) {
        const value = numbers[bytes[at] as number] as number;
        whole += value;
        if (keys[key]) held += value;
      }
    }
  }
  return whole > 0 ? held / whole : 0;
}

/** The side of a small picture, in pixels; of a longer text each pixel is the largest of many. */
export const SMALL = 64;

export interface Thumb {
  readonly width: number;
  readonly height: number;
  /** 0 to 255 of the largest weight that is left. */
  readonly bytes: Uint8Array;
}

/** One head in little. */
export function thumbOf(slice: Slice, head: number, left: readonly boolean[] | null): Thumb {
  const { queries, keys } = slice;
  const [width, height] = [Math.min(SMALL, keys), Math.min(SMALL, queries)];
  const bytes = new Uint8Array(width * height);
  const all = slice.head(head);
  const column = Uint16Array.from({ length: keys }, (_, key) => Math.floor((key * width) / keys));
  let most = 0;
  for (let query = 0, at = 0; query < queries; query++) {
    const row = Math.floor((query * height) / queries) * width;
    const seen = slice.seen(query);
    for (let key = 0; key < seen; key++, at++) {
      const byte = all[at] as number;
      // Most weights are too small for a byte.
      if (byte === 0 || left?.[key]) continue;
      const place = row + (column[key] as number);
      if (byte > (bytes[place] as number)) bytes[place] = byte;
      if (byte > most) most = byte;
    }
  }
  if (most > 0 && most < 255)
    for (let i = 0; i < bytes.length; i++) bytes[i] = ((bytes[i] as number) * 255) / most;
  return { width, height, bytes };
}
