import { describe, expect, it } from "vitest";
import { decodeArray, halfToNumber, toBytes } from "../src/wire/decode";
import { NdArray } from "../src/wire/ndarray";

describe("half precision", () => {
  it.each([
    [0x0000, 0],
    [0x8000, -0],
    [0x3c00, 1],
    [0xc000, -2],
    [0x7bff, 65504],
    [0x0001, 2 ** -24],
    [0x0400, 2 ** -14],
    [0x3555, 0.333251953125],
    [0x7c00, Number.POSITIVE_INFINITY],
    [0xfc00, Number.NEGATIVE_INFINITY],
    [0x7e00, Number.NaN],
  ])("reads 0x%s", (bits, value) => {
    expect(halfToNumber(bits)).toBe(value);
  });
});

describe("arrays", () => {
  it("reads every dtype little-endian, from an unaligned place", () => {
    const raw = new ArrayBuffer(64);
    const at = new DataView(raw, 3);
    at.setUint16(0, 513, true);
    expect(decodeArray("uint16", toBytes(new DataView(raw, 3, 2)), 1)[0]).toBe(513);
    expect(decodeArray("uint8", toBytes(new DataView(raw, 3, 2)), 2)).toEqual(
      new Int32Array([1, 2]),
    );
    at.setUint32(0, 49_151, true);
    expect(decodeArray("uint32", toBytes(new DataView(raw, 3, 4)), 1)[0]).toBe(49_151);
    at.setInt32(0, -1, true);
    expect(decodeArray("int32", toBytes(new DataView(raw, 3, 4)), 1)[0]).toBe(-1);
    at.setFloat32(0, 0.25, true);
    expect(decodeArray("float32", toBytes(new DataView(raw, 3, 4)), 1)[0]).toBe(0.25);
    at.setUint16(0, 0x3800, true);
    expect(decodeArray("float16", toBytes(new DataView(raw, 3, 2)), 1)[0]).toBe(0.5);
  });

  it("refuses a buffer that is too short and a dtype it does not know", () => {
    expect(() => decodeArray("float32", new Uint8Array(4), 2)).toThrow(/8 were expected/);
    expect(() => decodeArray("int8" as never, new Uint8Array(4), 2)).toThrow(/int8/);
  });

  it("writes a block into the middle and leaves the rest unknown", () => {
    const array = new NdArray(["point", "position", "k"], [3, 2, 2], true);
    array.write([1, 0, 1], [2, 2, 1], new Float32Array([1, 2, 3, 4]));
    expect(array.at(1, 0, 1)).toBe(1);
    expect(array.at(1, 1, 1)).toBe(2);
    expect(array.at(2, 1, 1)).toBe(4);
    expect(array.at(1, 0, 0)).toBeNaN();
    expect(array.at(0, 0, 1)).toBeNaN();
    expect(array.at(9, 0, 0)).toBeNaN();
    expect(array.at(0, -1, 0)).toBeNaN();
  });

  it("refuses a block that does not fit", () => {
    const array = new NdArray(["point"], [3], false);
    expect(() => array.write([2], [2], new Int32Array(2))).toThrow(/does not fit/);
    expect(() => array.write([0, 0], [1, 1], new Int32Array(1))).toThrow(/does not fit/);
    expect(array.at(0)).toBe(-1);
  });
});
