import { describe, expect, it } from "vitest";
import { LensData } from "../src/views/lens/data";
import { LENS, type LensMeta } from "../src/wire/lens";
import { readPacked, unpack } from "../src/wire/packed";
import { RunStore } from "../src/wire/store";
import { makeMeta, makeRow, pack } from "./fixtures";

function filled() {
  const store = new RunStore(makeMeta(), LENS);
  for (const row of [0, 1, 2]) {
    const { header, buffers } = makeRow(row);
    expect(store.apply(header, buffers)).toBe("applied");
  }
  return store;
}

function arrived(store: RunStore<LensMeta>) {
  const data = new LensData(store);
  return [0, 1, 2].map((row) => data.arrived(row));
}

describe("store", () => {
  it("fills row by row and knows which rows have come", () => {
    const store = new RunStore(makeMeta(), LENS);
    const { header, buffers } = makeRow(0);
    store.apply(header, buffers);
    expect(arrived(store)).toEqual([true, false, false]);
    expect(store.complete).toBe(false);
    expect(store.arrays.get("token_id")?.at(0, 1, 1)).toBe(1);
    expect(store.vocab.get(0)).toBe(" tok0");
  });

  it("reports gaps, repeats and other runs without changing anything", () => {
    const store = new RunStore(makeMeta(), LENS);
    const third = makeRow(2);
    expect(store.apply(third.header, third.buffers)).toBe("gap");
    expect(store.seq).toBe(0);
    const first = makeRow(0);
    store.apply(first.header, first.buffers);
    expect(store.apply(first.header, first.buffers)).toBe("stale");
    const other = makeRow(1, 2, { run: 9 });
    expect(store.apply(other.header, other.buffers)).toBe("stale");
    expect(arrived(store)).toEqual([true, false, false]);
  });

  it("refuses a frame without its buffers", () => {
    const store = new RunStore(makeMeta(), LENS);
    const { header } = makeRow(0);
    expect(() => store.apply(header, [])).toThrow(/brings 0 buffers/);
  });
});

describe("packed pictures", () => {
  it("come back as they were", async () => {
    const { meta, frames } = await unpack(
      pack(
        makeMeta(),
        [0, 1, 2].map((row) => makeRow(row)),
      ),
    );
    const store = new RunStore(meta as LensMeta, LENS);
    for (const { header, buffers } of frames) store.apply(header, buffers);
    expect(store.complete).toBe(true);
    expect(store.arrays.get("token_id")?.at(2, 0, 1)).toBe(21);
    expect(store.arrays.get("logprob")?.at(1, 1, 0)).toBeCloseTo(Math.log(0.5), 6);
  });

  it("cut short are refused", () => {
    expect(() => readPacked(new Uint8Array(2))).toThrow(/cut short/);
    expect(() => readPacked(new Uint8Array([255, 255, 0, 0, 1]))).toThrow(/cut short/);
  });
});

describe("lens data", () => {
  it("gives top tokens with the text of their ids", () => {
    const data = new LensData(filled());
    const [first, second] = data.top(1, 0);
    expect(first).toMatchObject({ id: 10, text: " tok1", rank: 1 });
    expect(first?.probability).toBeCloseTo(0.5, 6);
    expect(second?.text).toBe("#11");
  });

  it("breaks a trajectory where the token is not among the top k", () => {
    const values = new LensData(filled()).trajectory(0, 11);
    expect(values[0]).toBeNull();
    expect(values[1]).toBeCloseTo(0.25, 6);
    expect(values[2]).toBeNull();
  });

  it("finds from where the top token stays the final one, only when all rows are there", () => {
    const data = new LensData(filled());
    expect(data.settled(0)).toBe(2);
    const store = new RunStore(makeMeta(), LENS);
    const { header, buffers } = makeRow(0);
    store.apply(header, buffers);
    expect(new LensData(store).settled(0)).toBe(-1);
  });

  it("has no rank where the text ends", () => {
    expect(new LensData(filled()).numbers(2, 1).rank).toBeNaN();
  });
});
