import type { NdArray } from "../../wire/ndarray";
import type { ScatterMeta } from "../../wire/scatter";
import type { RunStore } from "../../wire/store";

export interface Extent {
  x: readonly [low: number, high: number];
  y: readonly [low: number, high: number];
}

/** One run's marks: where each is at each step, and what label it has. */
export class ScatterData {
  readonly meta: ScatterMeta;
  /** How many marks, steps, and pictures side by side there are. */
  readonly size: number;
  readonly steps: number;
  readonly pictures: number;
  readonly #x: NdArray | undefined;
  readonly #y: NdArray | undefined;
  readonly #label: NdArray | undefined;

  constructor(readonly store: RunStore<ScatterMeta>) {
    this.meta = store.meta;
    const { scatter, axes } = this.meta;
    const size = (dim: string) => axes[dim]?.size ?? 0;
    this.size = size(scatter.items);
    this.steps = size(scatter.steps);
    this.pictures = scatter.pictures ? size(scatter.pictures) : 1;
    this.#x = store.arrays.get(scatter.x);
    this.#y = store.arrays.get(scatter.y);
    this.#label = scatter.colors === "label" ? store.arrays.get("label_id") : undefined;
  }

  /** Where the marks of a picture begin in the arrays. */
  #start(picture: number, step: number): number {
    return (picture * this.steps + step) * this.size;
  }

  /** The coordinates of all marks, one after the other; empty before any has come. */
  xs(picture: number, step: number): ArrayLike<number> {
    const from = this.#start(picture, step);
    return this.#x?.data.subarray(from, from + this.size) ?? [];
  }

  ys(picture: number, step: number): ArrayLike<number> {
    const from = this.#start(picture, step);
    return this.#y?.data.subarray(from, from + this.size) ?? [];
  }

  at(picture: number, step: number, item: number): [x: number, y: number] {
    const place = this.#start(picture, step) + item;
    return [this.#x?.data[place] ?? Number.NaN, this.#y?.data[place] ?? Number.NaN];
  }

  /** The numbers of the labels of all marks; -1 for none. Some pictures have labels of their own. */
  labels(picture: number): ArrayLike<number> {
    const { colors } = this.meta.scatter;
    if (colors === "one") return new Int32Array(this.size);
    if (colors !== "label") return Int32Array.from({ length: this.size }, (_, item) => item);
    const from = (this.#label?.dims.length ?? 0) > 1 ? picture * this.size : 0;
    return this.#label?.data.subarray(from, from + this.size) ?? new Int32Array(this.size).fill(-1);
  }

  words(item: number): string {
    return this.meta.scatter.words[item] ?? String(item);
  }

  /** Whether the axes were fitted on a mark, where they were not on others. */
  isFitted(item: number): boolean {
    return this.meta.scatter.fitted[item] === 1;
  }

  has(step: number): boolean {
    for (let picture = 0; picture < this.pictures; picture++) {
      const xs = this.xs(picture, step);
      for (let item = 0; item < xs.length; item++) if (Number.isFinite(xs[item])) return true;
    }
    return false;
  }

  /** The last step that has come; 0 before any has. */
  newest(): number {
    for (let step = this.steps - 1; step > 0; step--) if (this.has(step)) return step;
    return 0;
  }

  /** The ends of the coordinates, of one step or of all; null before any has come. */
  extent(step: number | null): Extent | null {
    let [left, right, bottom, top] = [1, -1, 1, -1].map((sign) => sign * Number.POSITIVE_INFINITY);
    const steps = step === null ? Array.from({ length: this.steps }, (_, i) => i) : [step];
    for (let picture = 0; picture < this.pictures; picture++) {
      for (const one of steps) {
        const [xs, ys] = [this.xs(picture, one), this.ys(picture, one)];
        for (let item = 0; item < xs.length; item++) {
          const [x, y] = [xs[item] as number, ys[item] as number];
          if (x < (left as number)) left = x;
          if (x > (right as number)) right = x;
          if (y < (bottom as number)) bottom = y;
          if (y > (top as number)) top = y;
        }
      }
    }
    if ((left as number) > (right as number) || (bottom as number) > (top as number)) return null;
    return { x: [left as number, right as number], y: [bottom as number, top as number] };
  }
}
