import { signal } from "@preact/signals";
import { describe, expect, it } from "vitest";
import { paletteOf } from "../src/theme/palette";
import { effectScale } from "../src/theme/scale";
import { AnswerState } from "../src/views/answer/state";
import type { GridData } from "../src/views/arrays/grid";
import { wordsOf } from "../src/views/common/Term";
import { ANSWER, type AnswerMeta } from "../src/wire/answer";
import { Session } from "../src/wire/session";
import { FakeModel, makeAnswer, makeAnswerMeta, makeArray, makeBlocks } from "./fixtures";

function stateOf(traits: Record<string, unknown> = {}, over: Partial<AnswerMeta> = {}) {
  const model = new FakeModel({ view: "grid", live: true, meta: makeAnswerMeta(over), ...traits });
  const state = new AnswerState(new Session(model, ANSWER), signal(false));
  const { header, buffers } = makeAnswer();
  model.message({ kind: "frame", ...header }, buffers);
  return { state, model, grid: () => state.grid.value as GridData };
}

describe("an answer is divided", () => {
  it("between cells, curves, lists and single numbers, each array in one place", () => {
    const { state } = stateOf();
    expect(state.grids.value.map(({ name }) => name)).toEqual(["effect", "dosed"]);
    expect(state.panels.value.map(({ lines }) => lines.map(({ array }) => array.name))).toEqual([
      ["found", "random_found"],
    ]);
    const tables = state.data.value?.meta.arrays.filter((array) => state.tableOf(array));
    expect(tables?.map(({ name }) => name)).toEqual(["usage"]);
  });

  it("into curves where the view is one of curves and there are few", () => {
    const lines = {
      dims: ["part", "layer"],
      kind: "lines" as const,
      across: "layer",
      down: "part",
    };
    const arrays = [makeArray("change", lines)];
    const drawn = (view: string) => {
      const { state } = stateOf({ view }, { arrays });
      return [state.grids.value.length, state.panels.value[0]?.lines.length ?? 0];
    };
    expect(drawn("curves")).toEqual([0, 2]);
    expect(drawn("grid")).toEqual([1, 0]);
  });

  it("with a control beside what it controls, and both apart where that is asked", () => {
    const { state } = stateOf();
    const [panel] = state.panels.value;
    state.toggleApart(panel?.key ?? "");
    expect(state.panels.value.map(({ title }) => title)).toEqual(["Found", "Random found"]);
    expect(state.panels.value[1]?.whole?.lines).toHaveLength(2);
    state.toggleApart(panel?.key ?? "");
    expect(state.panels.value).toHaveLength(1);
  });
});

describe("the grid of an answer", () => {
  it("has layers upwards whatever the order of the numbers, and tokens across", () => {
    const { grid } = stateOf();
    expect([grid().down, grid().across]).toEqual(["layer", "position"]);
    expect(grid().value(1, 0)).toBeCloseTo(0.1);
    expect(grid().value(0, 1)).toBeCloseTo(0.3);
    expect(grid().cellName(2, 1)).toBe("layer 2, position 1 ␣Paris");
    expect(grid().columnName(2)).toBe("⋯");
    const head = grid().source().head(1);
    expect([head.upper, head.note]).toEqual([" Paris", "1"]);
  });

  it("shows one entry of a third axis, and can be cut along another", () => {
    const { state, grid, model } = stateOf({ focus: "dosed", entry: 1 });
    expect([grid().down, grid().across, grid().value(2, 1)]).toEqual(["layer", "position", 15]);
    state.chooseEntry(0);
    expect(model.get("entry")).toBe(0);
    expect(grid().value(2, 1)).toBe(14);
    state.session.write({ third: "position" });
    expect(model.get("third")).toBe("position");
    expect([grid().down, grid().across]).toEqual(["layer", "dose"]);
    expect(grid().value(2, 1)).toBe(13);
  });

  it("has means at its ends, of what is there", () => {
    const { grid } = stateOf({ means: true });
    expect([grid().rows, grid().columns]).toEqual([4, 4]);
    expect(grid().value(1, 3)).toBeCloseTo((0.1 + 0.9 + 0.6) / 3);
    expect(grid().value(2, 3)).toBeCloseTo((0.2 + 0.7) / 2);
    expect(grid().value(3, 0)).toBeCloseTo(0);
    expect(grid().rowName(3)).toBe("mean");
    expect(grid().cellName(3, 1)).toBe("layer mean, position 1 ␣Paris");
  });

  it("knows its strongest cell, and has colours both ways only where numbers lie on both sides", () => {
    const { state, grid } = stateOf();
    expect(grid().strongest(0)).toEqual({ point: 1, position: 1 });
    const flat = makeArray("flat", { dims: ["layer", "step"], down: "layer", across: "step" });
    const even = stateOf({}, { arrays: [flat] });
    const zeros = new Array(12).fill(0);
    const { header, buffers } = makeBlocks(2, [["flat", flat.dims, [0, 0], [3, 4], zeros]]);
    even.model.message({ kind: "frame", ...header }, buffers);
    expect([even.grid().value(2, 3), even.grid().strongest(0)]).toEqual([0, null]);
    const ends = () => state.scaleOf(grid()).ticks.map(({ label }) => label);
    expect([ends()[0], ends().at(-1)]).toEqual(["−0.9", "0.9"]);
    const scales = { dosed: { kind: "diverging" as const, centre: 0, limit: 20, unit: "" } };
    const one = stateOf({ focus: "dosed" }, { scales });
    const ticks = one.state.scaleOf(one.grid()).ticks;
    expect([ticks[0]?.label, ticks.at(-1)?.label]).toEqual(["0", "20"]);
    const below = effectScale(paletteOf(false), [-35.6, 0.2], [0, 35.6], "", "");
    expect(below.ticks.map(({ label }) => label)).toEqual(["−30", "−20", "−10", "0"]);
    expect([below.index(-35.6), below.index(0), below.index(0.2)]).toEqual([0, 255, 255]);
  });

  it("follows layer and position, and moves them", () => {
    const { state, model } = stateOf({ layer: 2, position: 1 });
    expect(state.cell()).toEqual({ point: 2, position: 1 });
    state.go({ layer: 0, position: 2 });
    expect([model.get("layer"), model.get("position")]).toEqual([0, 2]);
  });

  it("of two axes of layers follows with one, and remembers the other", () => {
    const role = { numbers: [0, 1, 2], long_name: "from layer", role: "layer" as const };
    const labels = { size: 3, labels: ["0", "1", "2"] };
    const meta = makeAnswerMeta();
    const axes = { ...meta.axes, source: { ...labels, ...role }, target: { ...labels, ...role } };
    const square = { dims: ["source", "target"], kind: "grid" as const };
    const arrays = [makeArray("change", { ...square, down: "source", across: "target" })];
    const { state, model } = stateOf({}, { axes, arrays });
    state.go({ source: 2, target: 0 });
    expect(model.get("layer")).toBe(2);
    expect(state.cell()).toEqual({ point: 2, position: 0 });
  });

  it("keeps the entry where several are of one layer", () => {
    const meta = makeAnswerMeta();
    const part = { size: 4, labels: ["0_attn", "0_mlp", "1_attn", "1_mlp"], numbers: [0, 0, 1, 1] };
    const axes = { ...meta.axes, sub: { ...part, long_name: "sublayer", role: "layer" as const } };
    const grid = { dims: ["sub", "step"], kind: "grid" as const, down: "sub", across: "step" };
    const { state, model } = stateOf({}, { axes, arrays: [makeArray("distance", grid)] });
    state.go({ sub: 1, step: 0 });
    expect(model.get("layer")).toBe(0);
    expect(state.cell()).toEqual({ point: 1, position: 0 });
    model.push("layer", 1);
    expect(state.cell()).toEqual({ point: 2, position: 0 });
  });
});

describe("curves of an answer", () => {
  it("run along their own axis, with the interval that is theirs and no value for what is missing", () => {
    const { state } = stateOf();
    const data = state.data.value;
    const [found, random] = (state.panels.value[0]?.lines ?? []).map(({ array }) => array);
    if (!data || !found || !random) throw new Error("nothing is drawn");
    expect(state.panels.value[0]?.dim).toBe("step");
    expect(data.intervalAtPlace(found, 3, null)?.low).toBeCloseTo(0.7);
    expect(data.atPlace(random, 0, null)).toBeNaN();
    expect(data.atPlace(random, 1, null)).toBe(1);
  });

  it("are drawn alone by a second press, and all again by a third", () => {
    const { state, model } = stateOf({ hidden: ["else"] });
    state.soloLine("found", ["found", "random_found"]);
    expect(model.get("hidden")).toEqual(["else", "random_found"]);
    state.soloLine("found", ["found", "random_found"]);
    expect(model.get("hidden")).toEqual(["else"]);
  });
});

describe("a dose", () => {
  it("stands at the value of the picture where no option says another", () => {
    const option = { option: "window", values: [1, 3, 5], dim: "", label: "window", now: 5 };
    const { state } = stateOf({ options: { answer: "x" } }, { doses: [option] });
    expect(state.dosed(option)).toBe(2);
  });

  it("of an axis picks its entry; of an option asks again", () => {
    const { state, model } = stateOf({ focus: "dosed", options: { window: 3, answer: "x" } });
    const [axis, option] = state.meta.value?.doses ?? [];
    if (!axis || !option) throw new Error("no doses");
    expect([state.dosed(axis), state.dosed(option)]).toEqual([0, 1]);
    state.dose(axis, 1);
    expect(model.get("entry")).toBe(1);
    state.dose(option, 2);
    expect(model.get("options")).toEqual({ window: 5, answer: "x" });
  });
});

describe("words of art", () => {
  const terms = { KL: "a divergence", "KL divergence": "the same", v: "the value", nats: "a unit" };
  const found = (text: string) => wordsOf(text, terms).map((part) => part.term ?? part.text);

  it("are found whole, the longest first, in any case but single letters", () => {
    expect(found("KL divergence of v")).toEqual(["KL divergence", " of ", "v"]);
    expect(found("kl in nats")).toEqual(["KL", " in ", "nats"]);
    expect(found("V and ovation, natsu")).toEqual(["V and ovation, natsu"]);
    expect(found("")).toEqual([]);
    expect(wordsOf("nothing", {})).toEqual([{ text: "nothing" }]);
  });
});
