import { decodeArray, isFloat, toBytes } from "./decode";
import { NdArray } from "./ndarray";
import type { Packed } from "./packed";
import type { ArrayHeader, CommonMeta, CommonTraits, FrameHeader, WireSpec } from "./types";

export type Applied = "applied" | "stale" | "gap";

type Buffer = ArrayBuffer | ArrayBufferView;

/** Everything the page has received of one run. Nothing here asks the kernel for anything. */
export class RunStore<M extends CommonMeta = CommonMeta> {
  readonly arrays = new Map<string, NdArray>();
  readonly vocab = new Map<number, string>();
  readonly #axes: Readonly<Record<string, number>>;
  seq = 0;
  complete = false;

  constructor(
    readonly meta: M,
    spec: WireSpec<CommonTraits, M>,
  ) {
    this.#axes = spec.axes(meta);
    for (const token of spec.names(meta)) this.vocab.set(token.id, token.text);
  }

  /** A finished picture; refuses one that is another view's. */
  static of<M extends CommonMeta>(packed: Packed, spec: WireSpec<CommonTraits, M>): RunStore<M> {
    if (!spec.isMeta(packed.meta)) throw new Error("It belongs to another kind of view.");
    const store = new RunStore(packed.meta, spec);
    for (const { header, buffers } of packed.frames) store.apply(header, buffers);
    return store;
  }

  /** Take one frame in. A gap in the numbering leaves the store as it was. */
  apply(frame: FrameHeader, buffers: readonly Buffer[]): Applied {
    if (frame.run !== this.meta.run || frame.seq <= this.seq) return "stale";
    if (frame.seq !== this.seq + 1) return "gap";
    if (buffers.length !== frame.arrays.length) {
      throw new Error(
        `Frame ${frame.seq} names ${frame.arrays.length} arrays but brings ${buffers.length} buffers.`,
      );
    }
    frame.arrays.forEach((header, i) => {
      this.#write(header, buffers[i] as Buffer);
    });
    for (const [id, text] of Object.entries(frame.vocab ?? {})) this.vocab.set(Number(id), text);
    this.seq = frame.seq;
    this.complete = this.complete || frame.last;
    return "applied";
  }

  #write(header: ArrayHeader, buffer: Buffer): void {
    const length = header.shape.reduce((a, b) => a * b, 1);
    const values = decodeArray(header.dtype, toBytes(buffer), length);
    let array = this.arrays.get(header.name);
    if (!array) {
      const shape = header.dims.map((dim, axis) => this.#size(dim, header, axis));
      array = new NdArray(header.dims, shape, isFloat(header.dtype));
      this.arrays.set(header.name, array);
    }
    array.write(header.start, header.shape, values);
  }

  #size(dim: string, header: ArrayHeader, axis: number): number {
    return this.#axes[dim] ?? (header.start[axis] ?? 0) + (header.shape[axis] ?? 0);
  }
}
