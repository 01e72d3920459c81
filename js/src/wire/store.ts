import { decodeArray, isFloat, toBytes } from "./decode";
import { NdArray } from "./ndarray";
import type { ArrayHeader, FrameHeader, Meta } from "./types";

export type Applied = "applied" | "stale" | "gap";

type Buffer = ArrayBuffer | ArrayBufferView;

/** Everything the page has received of one run. Nothing here asks the kernel for anything. */
export class RunStore {
  readonly arrays = new Map<string, NdArray>();
  readonly vocab = new Map<number, string>();
  /** 1 where a row of the lens has its tokens. */
  readonly arrived: Uint8Array;
  seq = 0;
  complete = false;

  constructor(readonly meta: Meta) {
    this.arrived = new Uint8Array(meta.points.length);
    for (const token of meta.tokens) if (!token.cont) this.vocab.set(token.id, token.text);
    for (const token of meta.tracked ?? []) this.vocab.set(token.id, token.text);
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
    const axis = header.dims.indexOf("point");
    if (header.name === "token_id" && axis >= 0) {
      const from = header.start[axis] ?? 0;
      this.arrived.fill(1, from, from + (header.shape[axis] ?? 0));
    }
  }

  #size(dim: string, header: ArrayHeader, axis: number): number {
    switch (dim) {
      case "point":
        return this.meta.points.length;
      case "position":
        return this.meta.tokens.length;
      case "k":
        return this.meta.k;
      case "tracked":
        return this.meta.tracked.length;
      default:
        return (header.start[axis] ?? 0) + (header.shape[axis] ?? 0);
    }
  }
}
