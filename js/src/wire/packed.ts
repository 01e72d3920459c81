import { toBytes } from "./decode";
import type { CommonMeta, FrameHeader } from "./types";

export interface Packed {
  meta: CommonMeta;
  frames: { header: FrameHeader; buffers: Uint8Array[] }[];
}

const ALIGN = 8;

async function inflate(bytes: Uint8Array): Promise<Uint8Array> {
  const stream = new DecompressionStream("deflate");
  const writer = stream.writable.getWriter();
  // What is wrong with the bytes comes out of the reading side; here it would go unheard.
  writer.write(bytes as BufferSource).catch(() => {});
  writer.close().catch(() => {});
  return new Uint8Array(await new Response(stream.readable).arrayBuffer());
}

/** Read a snapshot: zlib around a header length, a JSON header, and 8-byte aligned buffers. */
export async function unpack(source: ArrayBuffer | ArrayBufferView): Promise<Packed> {
  return readPacked(await inflate(toBytes(source)));
}

export function readPacked(raw: Uint8Array): Packed {
  if (raw.byteLength < 4) throw new Error("The saved picture is cut short.");
  const length = new DataView(raw.buffer, raw.byteOffset).getUint32(0, true);
  if (4 + length > raw.byteLength) throw new Error("The saved picture is cut short.");
  const header = JSON.parse(new TextDecoder().decode(raw.subarray(4, 4 + length))) as {
    meta: CommonMeta;
    frames: FrameHeader[];
  };
  let at = 4 + length;
  const frames = header.frames.map((frame) => ({
    header: frame,
    buffers: frame.arrays.map((array) => {
      const size = itemSize(array.dtype) * array.shape.reduce((a, b) => a * b, 1);
      const bytes = raw.subarray(at, at + size);
      if (bytes.byteLength !== size) throw new Error("The saved picture is cut short.");
      at += Math.ceil(size / ALIGN) * ALIGN;
      return bytes;
    }),
  }));
  return { meta: header.meta, frames };
}

function itemSize(dtype: string): number {
  const bits = /(\d+)$/.exec(dtype);
  return bits ? Number(bits[1]) / 8 : 0;
}
