import { beforeEach, describe, expect, it, vi } from "vitest";
import { decades, freeAxis, roomy, shareAxis, usualAxis, usualRange } from "../src/marks/axes";
import type { ChartInput } from "../src/marks/chart";
import { compact, written } from "../src/marks/numbers";
import { namedSpots, spotsOf } from "../src/marks/places";
import { lineStyle, paletteOf } from "../src/theme/palette";
import { stubBrowser } from "./page";

/** uPlot looks at the browser when it is loaded. */
async function chart() {
  stubBrowser();
  return await import("../src/marks/chart");
}

function input(over: Partial<ChartInput> = {}): ChartInput {
  const values = [0.1, null, 0.3, 0.4];
  return {
    places: [0, 1, 2, 3],
    label: String,
    lines: [{ style: lineStyle(0), values }],
    axis: shareAxis([values], true),
    palette: paletteOf(false),
    font: "serif",
    height: 190,
    ...over,
  };
}

describe("the axes of charts", () => {
  it("label powers of ten down to the lowest", () => {
    expect(decades(1e-3)).toEqual([1e-3, 1e-2, 1e-1, 1]);
    expect(decades(1e-12).length).toBeLessThan(9);
  });

  it("begin at zero where the values come near it, and leave room elsewhere", () => {
    expect(roomy(null, 0.1, 1)[0]).toBe(0);
    expect(roomy(null, 90, 100)[0]).toBeLessThan(90);
    expect(roomy(null, -1, -0.1)[1]).toBe(0);
    expect(roomy(null, 3, 3)[1]).toBeGreaterThan(3);
    const [low, high] = roomy(null, 14.9501, 14.9502); // labels of four digits differ
    expect(high - low).toBeGreaterThan(0.1);
    expect(roomy(null, null, null)).toEqual([0, 1]);
    expect(roomy(null, 0, 0)).toEqual([0, 1]);
  });

  it("write numbers of every size in a few characters", () => {
    const cases = { 0: "0", 1250: "1250", 12345: "12.35k", 0.042: "0.042", 2.5e6: "2.5M" };
    for (const [value, text] of Object.entries(cases)) expect(compact(Number(value))).toBe(text);
    expect(compact(-3.14159e-7)).toBe("−3.14e−7");
    expect(compact(Number.NaN)).toBe("–");
    expect(compact(999_999)).toBe("1M");
    expect(written(-0.001)).toBe("0.00");
  });
});

describe("values without a neighbour", () => {
  it("are found, for no line would show them", async () => {
    const { alone } = await chart();
    expect(alone([1, null, 2, null, 3])).toEqual([0, 2, 4]);
    // where none was asked for, the line goes on
    expect(alone([0, undefined, 2, 3, null, 5])).toEqual([5]);
    expect(alone([null, undefined, 2, undefined, null])).toEqual([2]);
    expect(alone([1, 2, 3])).toEqual([]);
  });
});

describe("places by value", () => {
  it("are the numbers themselves, and their logarithms where they span decades", () => {
    expect(spotsOf([-8, -4, -1, 0, 1, 4, 8])).toEqual([-8, -4, -1, 0, 1, 4, 8]);
    const spots = spotsOf([-10, 0, 0.1, 10, 1000]) ?? [];
    const root = Math.log1p(100);
    expect(spots).toEqual([-root, 0, Math.log(2), root, Math.log1p(10_000)]);
  });

  it("are left to the order where this says the same, or nothing", () => {
    for (const values of [[], [3], [1, 2], [0, 0.1, 0.2, 0.3], [1, 5, 2], [1, 1, 4], [0, NaN, 4]])
      expect(spotsOf(values)).toBeNull();
  });

  it("are named from the last back as far as labels do not touch", () => {
    expect(namedSpots([0, 1, 2, 10], 100, 15)).toEqual([0, 2, 3]);
    expect(namedSpots([0, 1, 2, 10], 100, 10)).toEqual([0, 1, 2, 3]);
  });

  it("are where a curve over doses has its places", async () => {
    const { Chart } = await chart();
    const host = document.body.appendChild(document.createElement("div"));
    const made = new Chart(host, { choose: vi.fn() });
    made.draw(input({ spots: [-8, -1, 0, 8] }));
    await Promise.resolve(); // it is laid out a moment later
    const lefts = [0, 1, 2, 3].map((place) => {
      made.cross(place);
      const moved = host.querySelector<HTMLElement>(".u-cursor-x")?.style.transform ?? "";
      return Number(/translate\(([\d.]+)px/.exec(moved)?.[1]);
    });
    const [first = 0, second = 0, third = 0, last = 0] = lefts;
    expect((second - first) / (last - first)).toBeCloseTo(7 / 16, 1);
    expect((third - first) / (last - first)).toBeCloseTo(8 / 16, 1);
    made.dispose();
  });
});

describe("a few values far off", () => {
  const usual = Array.from({ length: 30 }, (_, i) => 0.2 + 0.01 * i);

  it("do not flatten the others, and nothing else is left out", () => {
    const [low, high] = usualRange([[21, ...usual]]) as [number, number];
    expect([low, high]).toEqual([0.2, usual.at(-1)]);
    expect(usualRange([usual])).toBeNull();
    expect(usualRange([usual.map((v) => 2 ** (20 * v))])).toBeNull(); // growing, with no gap
    expect(usualRange([[0, 1, 0, 1, 1, 1, 0, 0, 1, 1, 0, 1, 0, 1, 1, 0, 1, 0, 1, 1]])).toBeNull();
    expect(usualRange([[21, 0.1, 0.2]])).toBeNull(); // too few to say what is usual
  });

  it("are marked at the edge with their numbers, one under the other", async () => {
    const { beyondOf } = await chart();
    const axis = usualAxis([0.2, 0.5]);
    const lines = [
      { style: lineStyle(0), values: [21, 0.3, null, -9] },
      { style: lineStyle(1), values: [16, 0.3, 0.2, 0.2] },
    ];
    const found = beyondOf(input({ axis, lines }));
    expect(found.map(({ value, place, rank, up }) => [value, place, rank, up])).toEqual([
      [21, 0, 0, true],
      [-9, 3, 0, false],
      [16, 0, 1, true],
    ]);
    expect(beyondOf(input({ axis: freeAxis(), lines }))).toEqual([]);
  });
});

describe("the chart", () => {
  beforeEach(() => document.body.replaceChildren());

  it("labels places that do not touch, the last one always", () => {
    expect(namedSpots([0, 1, 2, 3, 4], 600, 62)).toEqual([0, 1, 2, 3, 4]);
    const ticks = namedSpots(
      Array.from({ length: 62 }, (_, i) => i),
      600,
      62,
    );
    expect(ticks.at(-1)).toBe(61);
    expect(ticks.length).toBeLessThan(12);
  });

  it("takes new numbers in without being made anew, and other lines by being made anew", async () => {
    const { Chart } = await chart();
    const host = document.createElement("div");
    const made = new Chart(host, { choose: vi.fn() });
    made.draw(input({ axis: freeAxis() }));
    const first = host.querySelector(".uplot");
    const more = { style: lineStyle(0), values: [1, 2, 3, 4] };
    made.draw(input({ axis: freeAxis(), lines: [more] }));
    expect(host.querySelector(".uplot")).toBe(first);
    made.draw(input({ axis: freeAxis(), lines: [more, { ...more, style: lineStyle(1) }] }));
    expect(host.querySelector(".uplot")).not.toBe(first);
    expect(host.childElementCount).toBe(1);
    made.dispose();
    expect(host.childElementCount).toBe(0);
  });

  it("says over which place the pointer is, and that it has left", async () => {
    const { Chart } = await chart();
    const host = document.createElement("div");
    document.body.append(host);
    const over = vi.fn();
    const made = new Chart(host, { choose: vi.fn(), over });
    made.draw(input());
    const area = host.querySelector(".u-over");
    area?.dispatchEvent(new MouseEvent("mouseleave"));
    expect(over).toHaveBeenCalledWith(null);
    made.dispose();
  });
});

describe("things with names", () => {
  const band = { low: [0, 0, 0, 0], high: [1, 1, 1, 1] };
  const line = { style: lineStyle(0), values: [0.1, 0.2, 0.3, 0.4], band };

  it("are joined by no line and no band, but each has its bar", async () => {
    const { bandsOf, seriesOf } = await chart();
    const [named, low] = seriesOf({ ...line, dots: true }, 4);
    expect([named?.width, low?.width, low?.paths]).toEqual([0, 1.5, expect.any(Function)]);
    expect(bandsOf([{ ...line, dots: true }], paletteOf(false))).toEqual([]);
    expect(seriesOf(line, 4)[1]?.paths).toBeUndefined();
    expect(bandsOf([line], paletteOf(false))).toHaveLength(1);
  });

  it("have the room that their names need when these are turned", async () => {
    const { Chart } = await chart();
    const heights: number[] = [];
    for (const name of ["a", "a name that is rather long"]) {
      const host = document.body.appendChild(document.createElement("div"));
      const made = new Chart(host, { choose: vi.fn() });
      made.draw(input({ label: () => name, lines: [{ ...line, dots: true }] }));
      await Promise.resolve(); // it is laid out a moment later
      const { height = "" } = host.querySelector<HTMLElement>(".u-wrap")?.style ?? {};
      heights.push(Number.parseFloat(height));
      made.dispose();
    }
    expect(heights[0]).toBe(190);
    expect(heights[1]).toBeGreaterThan(240);
  });
});
