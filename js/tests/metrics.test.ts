import { signal } from "@preact/signals";
import { describe, expect, it } from "vitest";
import { layerTicks } from "../src/marks/axes";
import { paletteOf } from "../src/theme/palette";
import { rangeScale } from "../src/theme/scale";
import { ArraysData, entryName } from "../src/views/arrays/data";
import { GridData } from "../src/views/arrays/grid";
import { panelsOf as grouped, titleOf } from "../src/views/arrays/grouping";
import { isCurve, isGrid } from "../src/views/arrays/kinds";
import { axisOf } from "../src/views/arrays/lines";
import { axesName, found, toggled } from "../src/views/metrics/catalogue";
import { MetricsState } from "../src/views/metrics/state";
import { METRICS, type MetricsMeta } from "../src/wire/metrics";
import { Session } from "../src/wire/session";
import { RunStore } from "../src/wire/store";
import {
  CATALOGUE,
  FakeModel,
  makeArray,
  makeBlocks,
  makeMetrics,
  makeMetricsMeta,
} from "./fixtures";

function filled(over = {}) {
  const store = new RunStore(makeMetricsMeta(over), METRICS);
  const { header, buffers } = makeMetrics();
  store.apply(header, buffers);
  return new ArraysData(store);
}

const panelsOf = (meta: MetricsMeta) => grouped(meta, meta.arrays.filter(isCurve));

/** The state of a view that has received everything. */
function stateOf(traits: Record<string, unknown> = {}, over: Partial<MetricsMeta> = {}) {
  const model = new FakeModel({
    view: "metrics",
    live: true,
    meta: makeMetricsMeta(over),
    ...traits,
  });
  const state = new MetricsState(new Session(model, METRICS), signal(false));
  const { header, buffers } = makeMetrics();
  model.message({ kind: "frame", ...header }, buffers);
  return { state, model };
}

describe("the numbers of a run", () => {
  it("are found by layer; a state belongs to the block that made it", () => {
    const data = filled();
    const norm = data.array("residual_norm") ?? makeArray("");
    expect(data.atPlace(norm, -1, null)).toBe(10);
    expect(data.atPlace(norm, 2, null)).toBe(40);
    expect(data.atPlace(norm, 3, null)).toBeNaN();
    const ratio = data.array("attn_ratio") ?? makeArray("");
    expect(data.atPlace(ratio, -1, null)).toBeNaN();
    expect(data.intervalAtPlace(ratio, 1, null)?.high).toBeCloseTo(0.25);
    expect(data.intervalAtPlace(norm, 1, null)).toBeNull();
  });

  it("share one axis, which begins at the embedding where there are states", () => {
    const data = filled();
    const { arrays } = data.meta;
    expect(data.places(arrays.filter(({ kind }) => kind === "curve"))).toEqual([-1, 0, 1, 2]);
    expect(data.places(arrays.slice(0, 2))).toEqual([0, 1, 2]);
  });

  it("come layer by layer, and again with each text", () => {
    const store = new RunStore(makeMetricsMeta(), METRICS);
    const data = new ArraysData(store);
    const first = makeBlocks(1, [["mlp_ratio", ["layer"], [0], [1], [5]]]);
    store.apply(first.header, first.buffers);
    const line = data.array("mlp_ratio") ?? makeArray("");
    expect([0, 1].map((layer) => data.atPlace(line, layer, null))).toEqual([5, Number.NaN]);
    const second = makeBlocks(2, [["mlp_ratio", ["layer"], [0], [2], [6, 7]]]);
    store.apply(second.header, second.buffers);
    expect([0, 1].map((layer) => data.atPlace(line, layer, null))).toEqual([6, 7]);
    expect(data.extent("mlp_ratio")).toEqual({ low: 6, high: 7 });
    expect(data.extent("cka")).toBeNull();
  });
});

describe("panels", () => {
  it("put parts of a block beside each other, and never two units", () => {
    const panels = panelsOf(makeMetricsMeta());
    expect(panels.map(({ title }) => title)).toEqual(["Ratio", "Norm", "Norm, max"]);
    expect(panels[0]?.lines.map(({ label }) => label)).toEqual(["attention", "MLP"]);
    for (const { units, lines } of panels) {
      expect(new Set(lines.map(({ array }) => array.units))).toEqual(new Set([units]));
    }
  });

  it("name their metric, and ask one question once", () => {
    const meta = makeMetricsMeta();
    const of = (name: string, long_name: string) =>
      makeArray(name, { metric: "massive", long_name, units: "activation" });
    const described = { ...meta.described, massive: { ...CATALOGUE[0], question: "Which?" } };
    const panels = panelsOf({
      ...meta,
      described: described as typeof meta.described,
      arrays: [
        { ...of("massive", "largest of a text"), kind: "lines", dims: ["layer", "k"] },
        { ...of("massive_median", "median of a text"), units: "x" },
        { ...of("massive_count", "entries of a text"), units: "1" },
      ],
    });
    expect(panels.map(({ title }) => title)).toEqual([
      "Massive",
      "Massive, median",
      "Massive, count",
    ]);
    expect(panels.map(({ question }) => question)).toEqual([
      "Which?",
      "Median of a text",
      "Entries of a text",
    ]);
  });

  it("call the entries of an axis of ranks by their ranks", () => {
    const axis = { size: 4, labels: ["0", "1", "2", "3"], numbers: null, long_name: "k" };
    expect([0, 1, 3].map((i) => entryName("other.k", axis, i))).toEqual([
      "largest",
      "2nd largest",
      "4th largest",
    ]);
    expect(entryName("bin", { ...axis, long_name: "bin" }, 2)).toBe("bin 2");
  });

  it("keep a part's colour, and give the second model that of its twin", () => {
    const meta = makeMetricsMeta();
    const twin = makeArray("other.mlp_ratio", {
      metric: "mlp_ratio",
      dims: ["other.layer"],
      other: true,
    });
    const [ratio] = panelsOf({ ...meta, arrays: [...meta.arrays, twin] });
    expect(ratio?.lines.map(({ color }) => color)).toEqual([0, 1, 1]);
    const chance = makeArray("attn_ratio_chance", { metric: "attn_ratio" });
    const arrays = [meta.arrays[0], chance, ...meta.arrays.slice(1)] as typeof meta.arrays;
    const [both] = panelsOf({ ...meta, arrays });
    expect(both?.lines.map(({ label, color }) => [label, color])).toEqual([
      ["attention", 0],
      ["attention, chance", 4],
      ["MLP", 1],
    ]);
  });

  it("draw an array with a short axis as that many lines, and no tokens or places", () => {
    const meta = makeMetricsMeta();
    meta.axes.r = { size: 3, labels: ["1", "2", "3"], numbers: null, long_name: "rank" };
    const lines = { dims: ["layer", "r"], kind: "lines" as const };
    const arrays = [
      makeArray("massive", lines),
      makeArray("massive_position", { ...lines, metric: "massive", dtype: "int" }),
    ];
    const [panel, ...more] = panelsOf({ ...meta, arrays });
    expect(more).toEqual([]);
    expect(panel?.lines.map(({ label }) => label)).toEqual(["rank 1", "rank 2", "rank 3"]);
  });

  it("take a logarithm only of positive numbers of several sizes", () => {
    const line = (...values: number[]) => [{ style: { color: "", dash: [] }, values }];
    expect(axisOf(line(1, 1000), true).scale.distr).toBe(3);
    expect(axisOf(line(1, 1000), false).scale.distr).toBeUndefined();
    expect(axisOf(line(-1, 1000), true).scale.distr).toBeUndefined();
    expect(axisOf(line(0.8, 0.9), true).scale.distr).toBeUndefined();
  });

  it("leave out what lies far off, but not where that is what they are about", () => {
    const values = [...Array.from({ length: 40 }, (_, i) => i / 1000), 0.5];
    const lines = [{ style: { color: "", dash: [] }, values }];
    expect(axisOf(lines, false).beyond?.[1]).toBeLessThan(0.1);
    expect(axisOf(lines, false, false, true).beyond).toBeUndefined();
  });

  it("name layers by round numbers, and the embedding in place of the first", () => {
    const places = Array.from({ length: 31 }, (_, i) => i - 1);
    expect(layerTicks(places, 340)).toEqual([-1, 5, 10, 15, 20, 25]);
    expect(layerTicks(places.slice(1), 340)).toEqual([0, 5, 10, 15, 20, 25]);
  });
});

it("names what stands alone, and whose it is where two lie beside each other", () => {
  const other = { label: "the second", model: "toy", n_layers: 2 };
  const meta = { ...makeMetricsMeta(), other };
  const own = makeArray("effect", { long_name: "effect" });
  expect(titleOf(own, meta)).toBe("effect");
  const second = makeArray("other.effect", { long_name: "effect", other: true });
  expect(titleOf(second, meta)).toBe("effect · the second");
});

describe("the list of metrics", () => {
  const names = (query: string) => found(CATALOGUE, query).map(({ name }) => name);

  it("is searched in all that is said of a metric, by every word", () => {
    expect(names("ratio")).toEqual(["attn_ratio", "mlp_ratio"]);
    expect(names("mlp ratio")).toEqual(["mlp_ratio"]);
    expect(names("kornblith")).toEqual(["cka"]);
    expect(names("activation")).toEqual(["residual_norm"]);
    expect(names("")).toHaveLength(CATALOGUE.length);
    expect(names("nothing such")).toEqual([]);
  });

  it("keeps the last metric, for none is the default set", () => {
    expect(toggled(["a"], "b")).toEqual(["a", "b"]);
    expect(toggled(["a", "b"], "a")).toEqual(["b"]);
    expect(toggled(["b"], "b")).toEqual(["b"]);
  });

  it("says what there is one number for", () => {
    expect(axesName(["point"])).toBe("by state");
    expect(axesName(["point", "point_other"])).toBe("state × state");
    expect(axesName(["layer", "head"])).toBe("layer × head");
    expect(axesName([])).toBe("one number");
  });
});

describe("grids", () => {
  it("find the cell of a layer; in a matrix with itself until a column is gone to", () => {
    const { state } = stateOf({ focus: "cka" });
    const { layer, focus } = state.session.traits;
    expect(state.cell()).toBeNull();
    layer.value = 1;
    expect(state.cell()).toEqual({ point: 2, position: 2 });
    state.go({ point_other: 0 });
    expect(state.cell()).toEqual({ point: 2, position: 0 });
    layer.value = 7;
    expect(state.cell()).toBeNull();
    focus.value = "induction";
    layer.value = 2;
    expect(state.cell()).toEqual({ point: 2, position: -1 });
    state.go({ layer: 2, head: 1 });
    expect(state.cell()).toEqual({ point: 2, position: 1 });
    const data = filled();
    const cka = new GridData(data, data.array("cka") ?? makeArray(""));
    expect(cka.cellName(2, 0)).toBe("after 1 and embed");
    const heads = new GridData(data, data.array("induction") ?? makeArray(""));
    expect(heads.source().text(0.9)).toBe("0.90");
    expect(heads.cellName(2, 1)).toBe("layer 2, head 1");
  });

  it("show one entry at a time of a third axis", () => {
    const array = makeArray("scores", { dims: ["layer", "bin", "k"], kind: "table" });
    const meta = makeMetricsMeta({ arrays: [array] });
    const axis = (size: number, long_name: string) => {
      const labels = Array.from({ length: size }, (_, i) => String(i));
      return { size, labels, numbers: null, long_name };
    };
    Object.assign(meta.axes, { bin: axis(2, "bin"), k: axis(2, "k") });
    const store = new RunStore(meta, METRICS);
    const values = Array.from({ length: 12 }, (_, i) => i);
    const { header, buffers } = makeBlocks(1, [
      ["scores", ["layer", "bin", "k"], [0, 0, 0], [3, 2, 2], values],
    ]);
    store.apply(header, buffers);
    const data = new ArraysData(store);
    expect(isGrid(array)).toBe(true);
    expect(isGrid({ ...array, dims: ["layer", "bin"] })).toBe(false);
    expect(isGrid({ ...array, dtype: "token" })).toBe(false);
    const second = new GridData(data, array, { entry: 1 });
    expect([second.value(0, 0), second.value(2, 1)]).toEqual([1, 11]);
    expect(new GridData(data, array).value(2, 1)).toBe(10);
    expect(second.cellName(2, 1)).toBe("layer 2, bin 1");
  });

  it("are coloured to round ends: from zero, from far above it, or both ways", () => {
    const ends = (low: number, high: number) => {
      const scale = rangeScale(paletteOf(false), low, high, "", "");
      const last = scale.ticks.at(-1);
      return [scale.ticks[0]?.label, last?.label, Number(last?.at.toFixed(9))];
    };
    expect(ends(0.01, 0.53)).toEqual(["0", "0.6", 1]);
    expect(ends(0.9, 0.99)).toEqual(["0.9", "1", 1]);
    expect(ends(-0.2, 0.9)).toEqual(["−1", "1", 1]);
    expect(ends(-0.01, 0.9)).toEqual(["0", "1", 1]);
    expect(ends(-0.06, 1.0000002)).toEqual(["0", "1", 1]); // an unbiased estimate of what is 0 to 1
    expect(ends(-1.0000002, 0.3)).toEqual(["−1", "1", 1]);
    expect(ends(0, 0)).toEqual(["0", "1", 1]);
  });
});
