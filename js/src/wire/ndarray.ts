import type { Numbers } from "./decode";

/** A dense array with named axes, filled piece by piece. */
export class NdArray {
  readonly strides: number[];
  readonly data: Numbers;

  constructor(
    readonly dims: readonly string[],
    readonly shape: readonly number[],
    float: boolean,
  ) {
    const strides: number[] = [];
    let size = 1;
    for (let axis = shape.length - 1; axis >= 0; axis--) {
      strides[axis] = size;
      size *= shape[axis] ?? 0;
    }
    this.strides = strides;
    this.data = float ? new Float32Array(size).fill(Number.NaN) : new Int32Array(size).fill(-1);
  }

  /** Copy a block into place; `start` and `shape` have one entry an axis. */
  write(start: readonly number[], shape: readonly number[], values: Numbers): void {
    this.#check(start, shape);
    const rank = this.shape.length;
    if (rank === 0) {
      this.data.set(values.subarray(0, 1));
      return;
    }
    const run = shape[rank - 1] ?? 0;
    const rows = shape.slice(0, -1).reduce((a, b) => a * b, 1);
    if (run === 0) return;
    const index = new Array<number>(rank - 1).fill(0);
    for (let row = 0; row < rows; row++) {
      let offset = start[rank - 1] ?? 0;
      for (let axis = 0; axis < rank - 1; axis++) {
        offset += ((start[axis] ?? 0) + (index[axis] ?? 0)) * (this.strides[axis] ?? 0);
      }
      this.data.set(values.subarray(row * run, (row + 1) * run), offset);
      for (let axis = rank - 2; axis >= 0; axis--) {
        index[axis] = (index[axis] ?? 0) + 1;
        if ((index[axis] ?? 0) < (shape[axis] ?? 0)) break;
        index[axis] = 0;
      }
    }
  }

  #check(start: readonly number[], shape: readonly number[]): void {
    const fits = this.shape.every((size, axis) => {
      const from = start[axis] ?? -1;
      const count = shape[axis] ?? -1;
      return from >= 0 && count >= 0 && from + count <= size;
    });
    if (!fits || start.length !== this.shape.length || shape.length !== this.shape.length) {
      throw new Error(
        `A block of shape [${shape}] at [${start}] does not fit an array of shape [${this.shape}].`,
      );
    }
  }

  /** The number at these indices; NaN outside the array. */
  at(...index: number[]): number {
    let offset = 0;
    for (let axis = 0; axis < this.shape.length; axis++) {
      const i = index[axis] ?? 0;
      if (i < 0 || i >= (this.shape[axis] ?? 0)) return Number.NaN;
      offset += i * (this.strides[axis] ?? 0);
    }
    return this.data[offset] ?? Number.NaN;
  }
}
