import type { Square } from "../../marks/square";
import type { Reduce } from "../../wire/attention";
import type { Slice } from "../../wire/slice";
import { squareOf, type Thumb, thumbOf } from "./squares";

/** How many squares are kept; one of 512 tokens takes 1 MB, and as much as an image. */
const KEPT = 32;

/** The squares drawn last, so that going back and forth between layers or heads makes none anew. */
export class SquareCache {
  readonly #squares = new Map<Slice, Map<string, Square>>();
  #count = 0;

  of(
    slice: Slice,
    heads: readonly number[],
    reduce: Reduce,
    left: readonly boolean[] | null,
  ): Square {
    const name = `${heads.length > 1 ? reduce : "one"} ${heads.join()} ${left !== null}`;
    const known = this.#squares.get(slice)?.get(name);
    if (known) return known;
    const made = squareOf(slice, heads, reduce, left);
    if (this.#count >= KEPT) this.#forget();
    const own = this.#squares.get(slice) ?? new Map<string, Square>();
    this.#squares.set(slice, own.set(name, made));
    this.#count++;
    return made;
  }

  #forget(): void {
    const [oldest] = this.#squares.keys();
    if (!oldest) return;
    this.#count -= this.#squares.get(oldest)?.size ?? 0;
    this.#squares.delete(oldest);
  }
}

/** The small pictures of each slice, which go when it goes. */
export class ThumbCache {
  readonly #thumbs = new WeakMap<Slice, Map<string, Thumb>>();

  of(slice: Slice, head: number, left: readonly boolean[] | null): Thumb {
    const own = this.#thumbs.get(slice) ?? new Map<string, Thumb>();
    this.#thumbs.set(slice, own);
    const name = `${head} ${left !== null}`;
    const thumb = own.get(name) ?? thumbOf(slice, head, left);
    own.set(name, thumb);
    return thumb;
  }
}
