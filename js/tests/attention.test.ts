import { describe, expect, it } from "vitest";
import { collect, FAINTEST, mostOf } from "../src/marks/links";
import { packed, pixelsOf } from "../src/marks/square";
import { parseHex } from "../src/theme/colors";
import { paletteOf } from "../src/theme/palette";
import { weightScale } from "../src/theme/scale";
import { SquareCache } from "../src/views/attention/cache";
import { AttentionData, layerIndex, roleName } from "../src/views/attention/data";
import { differenceOf, massOn, SMALL, squareOf, thumbOf } from "../src/views/attention/squares";
import { ATTENTION, sliceName } from "../src/wire/attention";
import { Slice, unpackSlice } from "../src/wire/slice";
import { RunStore } from "../src/wire/store";
import { makeAttentionMeta, makePart, makeSlice, packedSlice } from "./attention.fixtures";

const slice = () => new Slice(makeSlice().header, makeSlice().bytes);
const palette = paletteOf(false);
const row = (square: { values: Float32Array; keys: number }, query: number) =>
  Array.from(square.values.subarray(query * square.keys, (query + 1) * square.keys));

describe("a slice", () => {
  it("packs the lower triangle row by row, also where keys go before the queries", () => {
    const one = slice();
    expect([one.seen(0), one.seen(3), one.start(3), one.size]).toEqual([1, 4, 6, 10]);
    const longer = new Slice({ max: [1], shape: [1, 2, 5], causal: true }, new Uint8Array(9));
    expect([longer.seen(0), longer.seen(1), longer.start(1), longer.size]).toEqual([4, 5, 4, 9]);
  });

  it("is whole where nothing is masked, and refuses other lengths", () => {
    const header = { max: [1, 1], shape: [2, 2, 3] as [number, number, number], causal: false };
    const whole = new Slice(
      header,
      Uint8Array.from({ length: 12 }, (_, i) => i),
    );
    expect(Array.from(whole.head(1))).toEqual([6, 7, 8, 9, 10, 11]);
    expect([whole.seen(0), whole.start(1)]).toEqual([3, 3]);
    expect(() => new Slice(header, new Uint8Array(11))).toThrow(/11 bytes; 12 were expected/);
  });

  it("scales each head by its own range; a blank byte is no number", () => {
    const numbers = slice().numbers(1);
    expect(numbers[0]).toBe(0);
    expect(numbers[255]).toBe(1);
    const scores = new Slice(
      { min: [-3], max: [2], shape: [1, 1, 3], causal: false, blank: true },
      Uint8Array.from([0, 1, 255]),
    );
    expect(row(squareOf(scores, [0], "one", null), 0)).toEqual([Number.NaN, -3, 2]);
  });

  it("squares bytes that are roots, and colours small weights as far apart as their roots", () => {
    const roots = new Slice(
      { max: [2], shape: [1, 1, 3], causal: false, root: true },
      Uint8Array.from([0, 51, 255]),
    );
    const square = squareOf(roots, [0], "one", null);
    expect(row(square, 0)).toEqual([0, expect.closeTo(2 * 0.2 ** 2), 2]);
    const scale = weightScale(palette, square.high, "");
    expect(Array.from(square.values, (value) => scale.index(value))).toEqual([0, 51, 255]);
    expect(scale.ticks.at(-1)).toEqual({ at: 1, label: "2" });
  });

  it("comes out of a snapshot as it went in", () => {
    expect(Array.from(unpackSlice(packedSlice()).head(3))).toEqual(Array.from(slice().head(3)));
  });
});

describe("a square", () => {
  it("is one head, with nothing where a query cannot look", () => {
    const square = squareOf(slice(), [0], "one", null);
    const [before, first] = [0.5 * (200 / 255), 0.5];
    expect(row(square, 2)).toEqual([expect.closeTo(first), expect.closeTo(before), 0, Number.NaN]);
    expect([square.low, square.high, square.signed]).toEqual([0, 0.5, false]);
  });

  it("has the same colours by its bytes as by its values", () => {
    const square = squareOf(slice(), [0], "one", [false, true, false, false]);
    const { coded, ...plain } = square;
    const scale = weightScale(paletteOf(false), square.high, "Weight");
    const drawn = pixelsOf(square, scale, [1, 2, 3]);
    expect(coded).toBeDefined();
    expect(drawn).toEqual(pixelsOf(plain, scale, [1, 2, 3]));
    expect(new Set(new Uint32Array(drawn.buffer)).size).toBeGreaterThan(2);
  });

  it("takes heads together by mean and by the largest", () => {
    const mean = squareOf(slice(), [0, 2], "mean", null);
    const max = squareOf(slice(), [0, 2], "max", null);
    expect(row(mean, 0)[0]).toBeCloseTo((0.5 + 1.5) / 2);
    expect(row(max, 0)[0]).toBeCloseTo(1.5);
  });

  it("leaves keys out, and knows what they hold", () => {
    const left = [true, false, false, false];
    const square = squareOf(slice(), [0], "one", left);
    expect(row(square, 2)[0]).toBeNaN();
    expect(square.high).toBeCloseTo(0.5 * (200 / 255));
    // Of all bytes of head 0: 255 three times and 200 once at the first key, 200 twice elsewhere.
    expect(massOn(slice(), [0], left)).toBeCloseTo((3 * 255 + 200) / (3 * 255 + 3 * 200));
  });

  it("has a difference around zero, and none of other shapes", () => {
    const first = squareOf(slice(), [0], "one", null);
    const second = squareOf(slice(), [1], "one", null);
    const difference = differenceOf(first, second);
    expect(difference?.values[0]).toBeCloseTo(0.5);
    expect([difference?.low, difference?.high, difference?.signed]).toEqual([-0.5, 0.5, true]);
    const small = makeSlice(4, 3);
    const shorter = squareOf(new Slice(small.header, small.bytes), [0], "one", null);
    expect(differenceOf(first, shorter)).toBeNull();
  });

  it("is made once for a head, and anew where keys are left out", () => {
    const cache = new SquareCache();
    const one = slice();
    const made = cache.of(one, [1], "one", null);
    expect(cache.of(one, [1], "mean", null)).toBe(made);
    expect(cache.of(one, [1], "one", [true])).not.toBe(made);
    expect(cache.of(slice(), [1], "one", null)).not.toBe(made);
    for (let i = 0; i < 40; i++) cache.of(slice(), [0], "one", null);
    expect(cache.of(one, [1], "one", null)).not.toBe(made);
  });

  it("becomes pixels: the scale's colours, and another where there is no number", () => {
    const square = squareOf(slice(), [0], "one", null);
    const none = parseHex(palette.sunken);
    const scale = weightScale(palette, square.high, "");
    const pixels = new Uint32Array(pixelsOf(square, scale, none).buffer);
    expect(pixels[0]).toBe(packed(parseHex(palette.accent)));
    expect(pixels[1]).toBe(packed(none));
    expect(pixels[10]).toBe(packed(parseHex(palette.bg)));
  });
});

describe("a small picture", () => {
  it("is as large as a short text", () => {
    const thumb = thumbOf(slice(), 0, null);
    expect([thumb.width, thumb.height]).toEqual([4, 4]);
    expect(Array.from(thumb.bytes.subarray(8, 12))).toEqual([255, 200, 0, 0]);
  });

  it("holds the largest weight of many, rescaled to what is left", () => {
    const long = makeSlice(1, 200);
    const thumb = thumbOf(new Slice(long.header, long.bytes), 0, null);
    expect([thumb.width, thumb.height]).toEqual([SMALL, SMALL]);
    // The diagonal of the token before is nowhere thinned away.
    for (let i = 1; i < SMALL; i++) expect(thumb.bytes[i * SMALL + i]).toBe(200);
    const left = Array.from({ length: 200 }, (_, key) => key === 0);
    const without = thumbOf(new Slice(long.header, long.bytes), 0, left);
    expect(without.bytes[SMALL + 1]).toBe(255);
  });
});

describe("lines", () => {
  const square = squareOf(slice(), [0], "one", null);
  const all = { from: 0, to: 4 };
  const pairs = (levels: number[][]) => levels.flatMap((level) => level.length / 2);
  const count = (levels: number[][]) => pairs(levels).reduce((a, b) => a + b, 0);

  it("are drawn for what is strong enough, by strength", () => {
    const levels = collect({ isolated: null, most: 0.5 }, square, all);
    expect(levels[15]).toEqual([0, 0, 2, 0, 3, 0]);
    expect(count(levels)).toBe(6);
    expect(200 / 255).toBeGreaterThan(FAINTEST);
  });

  it("are drawn alone from queries and to keys", () => {
    const from = (queries: number[], keys: number[]) =>
      collect(
        { isolated: { queries: new Set(queries), keys: new Set(keys) }, most: 0.5 },
        square,
        all,
      );
    expect(count(from([2], []))).toBe(2);
    expect(count(from([], [0]))).toBe(4);
    expect(count(from([2], [0]))).toBe(5);
  });

  it("of tokens looked at alone are as strong as the strongest of them", () => {
    const ends = (queries: number[], keys: number[]) => ({
      queries: new Set(queries),
      keys: new Set(keys),
    });
    expect(mostOf(square, ends([], [2]))).toBeCloseTo(0.5 * (200 / 255));
    expect(mostOf(square, ends([0], [2]))).toBeCloseTo(0.5);
    expect(mostOf(square, ends([], [3]))).toBe(0);
  });

  it("end where they can be seen: one end is enough", () => {
    expect(count(collect({ isolated: null, most: 0.5 }, square, { from: 3, to: 4 }))).toBe(2);
    expect(count(collect({ isolated: null, most: 0.5 }, square, { from: 0, to: 1 }))).toBe(4);
  });

  it("of numbers below zero have levels of their own", () => {
    const turned = { ...square, values: square.values.map((value) => -value) };
    const levels = collect({ isolated: null, most: 0.5 }, turned, all);
    expect(levels.slice(0, 16).flat()).toEqual([]);
    expect(levels[31]).toEqual([0, 0, 2, 0, 3, 0]);
  });
});

describe("a run of attention", () => {
  const data = (over = {}, part = "self") =>
    new AttentionData(new RunStore(makeAttentionMeta(over), ATTENTION), part);

  it("names its slices as the kernel does", () => {
    const key = { layer: 3, part: "self", weighting: "pattern", other: true } as const;
    expect(sliceName(key)).toBe("3/self/pattern/1");
  });

  it("finds the layer that was computed, or the nearest; -1 is the first", () => {
    expect([5, 0, 9, -1].map((layer) => layerIndex([0, 4, 8], layer))).toEqual([1, 0, 2, 0]);
  });

  it("groups heads by the keys they share", () => {
    expect(data().groups()).toEqual([
      [0, 1],
      [2, 3],
    ]);
    expect(data().shares).toBe(true);
    expect(data({ kv_groups: [0, 1, 2, 3] }).shares).toBe(false);
  });

  it("takes the first key and special ones for sinks", () => {
    expect(data({ special: [false, false, true, false] }).sinks(false)).toEqual([
      true,
      false,
      true,
      false,
    ]);
  });

  it("says what a head does, the strongest role first", () => {
    const roles = [
      { layer: 1, head: 2, role: "local", score: 0.91 },
      { layer: 1, head: 2, role: "previous_token", score: 0.93 },
      { layer: 0, head: 2, role: "sink_mass", score: 0.99 },
    ];
    const found = data({ roles }).roles(1, 2);
    expect(found.map(({ role }) => roleName(role))).toEqual(["previous", "local"]);
    expect(data().roles(0, 2)).toEqual([]);
  });

  it("knows the tokens of the part that is shown", () => {
    const cross = makePart({ tokens: [{ id: 9, text: " Hund", cont: false }], n_heads: 2 });
    const parts = { parts: ["encoder", "cross"], by_part: { encoder: makePart(), cross } };
    expect(
      data(parts, "cross")
        .queries(false)
        .map(({ text }) => text),
    ).toEqual([" Hund"]);
    expect(data(parts, "cross").keys(false)).toHaveLength(4);
  });
});
