import { signal } from "@preact/signals";
import { beforeEach, describe, expect, it, vi } from "vitest";
import { GenerationData } from "../src/views/generation/data";
import { exitPoint, scores } from "../src/views/generation/exits";
import { GenerationState } from "../src/views/generation/state";
import { GENERATION, type GenerationMeta } from "../src/wire/generation";
import { Session } from "../src/wire/session";
import { RunStore } from "../src/wire/store";
import type { ArrayHeader } from "../src/wire/types";
import { FakeModel, makeMeta } from "./fixtures";
import { shown, stubBrowser } from "./page";

const STEPS = 3;

function makeWritten(over: Partial<GenerationMeta> = {}): GenerationMeta {
  return {
    ...makeMeta({ tokens: [], tracked: [] }),
    steps: STEPS,
    prompt: ["<s>", " The"],
    begun: 0,
    states: [true, true, true],
    rules: [
      {
        name: "margin",
        words: "top minus second",
        threshold: 0.5,
        low: 0,
        high: 1,
        step: 0.01,
      },
      { name: "patience", words: "in a row", threshold: 2, low: 0, high: 10, step: 1 },
    ],
    ...over,
  } as GenerationMeta;
}

/** One column: ids 10·step + k on top but at the embedding, which says 99 and is not sure. */
function makeColumn(step: number, last = false) {
  const ids = new Int32Array([99, 98, 10 * step, 10 * step + 1, 10 * step, 10 * step + 1]);
  const cell = { dims: ["point", "step"], start: [0, step], shape: [3, 1] };
  const top = { dims: ["point", "step", "k"], start: [0, step, 0], shape: [3, 1, 2] };
  const one = { dims: ["step"], start: [step], shape: [1] };
  const logs = new Float32Array([0.3, 0.2, 0.8, 0.1, 0.9, 0.05].map(Math.log));
  const all: [string, ArrayHeader["dtype"], object, ArrayBufferView][] = [
    ["token_id", "int32", top, ids],
    ["logprob", "float32", top, logs],
    ["written_probability", "float32", cell, new Float32Array([0.01, 0.8, 0.9])],
    ["margin", "float32", cell, new Float32Array([0.1, 0.7, 0.85])],
    ["entropy", "float32", cell, new Float32Array([4, 1, 0.5])],
    ["written_id", "int32", one, new Int32Array([10 * step])],
    ["settle_point", "int32", one, new Int32Array([1])],
  ];
  const arrays = all.map(([name, dtype, where]) => ({ name, dtype, ...where }) as ArrayHeader);
  const vocab = { [10 * step]: ` t${step}`, [10 * step + 1]: ` u${step}`, 99: " em" };
  const header = { run: 1, seq: step + 1, last, arrays, vocab };
  return { header, buffers: all.map(([, , , array]) => new DataView(array.buffer)) };
}

function stored(columns = STEPS): RunStore<GenerationMeta> {
  const store = new RunStore(makeWritten(), GENERATION);
  for (let step = 0; step < columns; step++) {
    const { header, buffers } = makeColumn(step, step === STEPS - 1);
    store.apply(header, buffers);
  }
  return store;
}

function running(over: Record<string, unknown> = {}) {
  return new FakeModel({
    view: "generation",
    live: true,
    text: "The",
    meta: makeWritten(),
    options: {},
    status: { state: "running", run: 1, done: 1, total: 3, what: "", message: "", seconds: 0 },
    ...over,
  });
}

function receive(model: FakeModel, step: number): void {
  const { header, buffers } = makeColumn(step, step === STEPS - 1);
  model.message({ kind: "frame", ...header }, buffers);
}

describe("a text as it is written", () => {
  beforeEach(() => {
    stubBrowser();
    document.body.replaceChildren();
  });

  it("has room for what is to come, and in the end what was written", () => {
    const data = new GenerationData(stored(1));
    expect([data.positions, data.written]).toEqual([STEPS, 1]);
    expect(data.arrived(0, 0)).toBe(true);
    expect(data.arrived(0, 1)).toBe(false);
    expect([data.settled(0), data.settled(1)]).toEqual([1, -1]);
    expect(new GenerationData(stored()).meta.tokens.map((token) => token.text)).toEqual([
      " t0",
      " t1",
      " t2",
    ]);
    expect(data.trajectory(0, 0)[0]).toBeCloseTo(0.01);
  });

  it("exits at the first state over the threshold, else at the last", () => {
    const data = new GenerationData(stored());
    expect(exitPoint(data, { rule: "margin", threshold: 0.5, least: 0 }, 0)).toBe(1);
    expect(exitPoint(data, { rule: "margin", threshold: 0.8, least: 0 }, 0)).toBe(2);
    expect(exitPoint(data, { rule: "margin", threshold: 2, least: 0 }, 0)).toBe(2);
    expect(exitPoint(data, { rule: "margin", threshold: -1, least: 0 }, 0)).toBe(0);
    expect(exitPoint(data, { rule: "confidence", threshold: 0.75, least: 0 }, 0)).toBe(1);
    expect(exitPoint(data, { rule: "confidence", threshold: 0.85, least: 0 }, 0)).toBe(2);
    // Blocks that always run: their states are not stopped at, however sure they are.
    const sure = { rule: "margin", threshold: -1 };
    const run = data.meta.layers.map((layer) => layer + 1);
    expect(exitPoint(data, { ...sure, least: (run[0] ?? 0) + 1 }, 0)).toBe(1);
    expect(exitPoint(data, { ...sure, least: 99 }, 0)).toBe(2);
    expect(scores(data, "patience", 0)).toEqual([1, 1, 2]);
    expect(scores(data, "entropy", 0)[2]).toBeCloseTo(1 - 0.5 / Math.log(100));
    const apart = {
      meta: { d_vocab: 9, states: [true, false, true], layers: [-1, 0, 1] },
      number: () => 9,
      probability: () => 9,
      topId: () => 4,
    };
    expect(scores(apart, "patience", 0)).toEqual([1, Number.NaN, 2]);
  });

  it("shows columns as they come and its rule is moved without a word to the kernel", async () => {
    const model = running();
    const { el } = await shown(model);
    receive(model, 0);
    await vi.waitFor(() => expect(el.querySelectorAll(".ll-written").length).toBe(1));
    expect(el.querySelector(".ll-progress button")?.textContent).toBe("Stop");
    receive(model, 1);
    receive(model, 2);
    await vi.waitFor(() => expect(el.querySelectorAll(".ll-written").length).toBe(3));
    await vi.waitFor(() =>
      expect(el.querySelectorAll(".ll-strip tr:last-child td").length).toBe(3),
    );
    const sent = model.sent.length;
    const slider = el.querySelector<HTMLInputElement>(".ll-strip input[type=range]");
    expect(el.querySelector(".ll-strip")?.textContent).toContain("0 post");
    if (slider) slider.value = "0.8";
    slider?.dispatchEvent(new Event("input", { bubbles: true }));
    await vi.waitFor(() =>
      expect(el.querySelector(".ll-strip tr:last-child")?.textContent).toContain("final"),
    );
    expect(model.sent.length).toBe(sent);
  });

  it("looks at the newest token until another one is chosen", () => {
    const model = running({ step: -1 });
    const session = new Session(model, GENERATION);
    const state = new GenerationState(session, signal(false));
    for (const step of [0, 1]) {
      receive(model, step);
      expect(state.selected.value.position).toBe(step);
    }
    model.push("step", 0);
    receive(model, 2);
    expect(state.selected.value.position).toBe(0);
    model.push("step", 9);
    expect(state.selected.value.position).toBe(2);
  });

  it("branches from another token, and marks where the texts part", async () => {
    const model = running();
    const session = new Session(model, GENERATION);
    const state = new GenerationState(session, signal(false));
    for (const step of [0, 1, 2]) receive(model, step);
    const cell = { point: 2, position: 1 };
    expect(state.noBranch(cell, 10)).toContain("would be the same");
    expect(state.noBranch(cell, 11)).toBe("");
    expect(state.noBranch({ point: 2, position: 7 }, 11)).toContain("not been written");
    state.branch(cell, 11);
    expect(model.get("begin")).toEqual([0, 11]);
    expect((model.get("before") as { id: number }[]).map(({ id }) => id)).toEqual([0, 10, 20]);
    expect(state.parted()).toBe(-1);
    session.write({
      before: [
        { id: 0, text: " t0" },
        { id: 11, text: " u1" },
      ],
    });
    expect(state.parted()).toBe(1);
    session.write({ options: { temperature: 1, seed: 4 } });
    state.branch(cell, 10);
    expect(model.get("options")).toEqual({ temperature: 1, seed: 5 });
    expect(state.afresh()).toEqual({ begin: [], before: [] });
  });

  it("branches with b, opens with Enter and writes nothing without a kernel", async () => {
    const model = running({ step: 1, row: 0 });
    const { el } = await shown(model);
    for (const step of [0, 1, 2]) receive(model, step);
    const grid = el.querySelector<HTMLElement>("[role=grid]");
    await vi.waitFor(() => expect(grid?.getAttribute("aria-colcount")).toBe("3"));
    const press = (key: string) =>
      grid?.dispatchEvent(new KeyboardEvent("keydown", { key, bubbles: true, composed: true }));
    press("b");
    expect(model.get("begin")).toEqual([0, 99]);
    press("Enter");
    await vi.waitFor(() => expect(el.querySelector(".ll-popup .ll-branch")).toBeTruthy());
    model.push("live", false);
    await vi.waitFor(() =>
      expect(el.querySelector<HTMLButtonElement>(".ll-popup .ll-branch")?.disabled).toBe(true),
    );
  });
});
