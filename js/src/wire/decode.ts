import type { WireDtype } from "./types";

/** Integers keep -1 and floats keep NaN where nothing has arrived. */
export type Numbers = Float32Array | Int32Array;

const BYTES: Record<WireDtype, number> = {
  uint8: 1,
  uint16: 2,
  uint32: 4,
  int32: 4,
  float16: 2,
  float32: 4,
};

/** Hosts hand buffers over as DataView, Uint8Array or ArrayBuffer, often with an offset. */
export function toBytes(source: ArrayBuffer | ArrayBufferView): Uint8Array {
  if (ArrayBuffer.isView(source)) {
    return new Uint8Array(source.buffer as ArrayBuffer, source.byteOffset, source.byteLength);
  }
  return new Uint8Array(source);
}

/** One IEEE 754 half-precision number. */
export function halfToNumber(bits: number): number {
  const sign = bits & 0x8000 ? -1 : 1;
  const exponent = (bits >> 10) & 0x1f;
  const fraction = bits & 0x3ff;
  if (exponent === 0) return sign * fraction * 2 ** -24;
  if (exponent === 31) return fraction ? Number.NaN : sign * Number.POSITIVE_INFINITY;
  return sign * (1 + fraction / 1024) * 2 ** (exponent - 15);
}

export function isFloat(dtype: WireDtype): boolean {
  return dtype === "float16" || dtype === "float32";
}

/**
 * Little-endian bytes to numbers, floats as float32 and integers as int32.
 *
 * Reads through a DataView because a buffer inside a message need not be aligned.
 */
export function decodeArray(dtype: WireDtype, bytes: Uint8Array, length: number): Numbers {
  const size = BYTES[dtype];
  if (size === undefined) throw new Error(`A frame holds the unknown dtype ${dtype}.`);
  if (bytes.byteLength < length * size) {
    throw new Error(`A frame array has ${bytes.byteLength} bytes; ${length * size} were expected.`);
  }
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  const out = isFloat(dtype) ? new Float32Array(length) : new Int32Array(length);
  const read = reader(dtype, view);
  for (let i = 0; i < length; i++) out[i] = read(i);
  return out;
}

function reader(dtype: WireDtype, view: DataView): (index: number) => number {
  switch (dtype) {
    case "uint8":
      return (i) => view.getUint8(i);
    case "uint16":
      return (i) => view.getUint16(2 * i, true);
    case "uint32":
      return (i) => view.getUint32(4 * i, true);
    case "int32":
      return (i) => view.getInt32(4 * i, true);
    case "float16":
      return (i) => halfToNumber(view.getUint16(2 * i, true));
    case "float32":
      return (i) => view.getFloat32(4 * i, true);
  }
}
