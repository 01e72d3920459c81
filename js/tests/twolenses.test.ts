import { signal } from "@preact/signals";
import { beforeEach, describe, expect, it, vi } from "vitest";
import { LensData } from "../src/views/lens/data";
import { apart, DifferenceData } from "../src/views/lens/difference";
import { OtherState, ViewState } from "../src/views/lens/state";
import { LENS } from "../src/wire/lens";
import { Session } from "../src/wire/session";
import { RunStore } from "../src/wire/store";
import { FakeModel, makeMeta, makeRow } from "./fixtures";
import { shown, stubBrowser } from "./page";

const OTHER = { kind: "text" as const, label: "of Italy", tokens: ["The", " Italy"] };

/** A row of both lenses: the other one has ids higher by 1, probabilities 0.4 and 0.3. */
function makeBoth(row: number, change = 0.25 * row) {
  const { header, buffers } = makeRow(row);
  const ids = new Int32Array([0, 1, 0, 1].map((k) => 10 * row + 1 + k));
  const logs = new Float32Array([0.4, 0.3, 0.4, 0.3].map(Math.log));
  const cells = { dims: ["point", "position"], start: [row, 0], shape: [1, 2] };
  const where = { dims: ["point", "position", "k"], start: [row, 0, 0], shape: [1, 2, 2] };
  header.arrays.push(
    { name: "other_token_id", dtype: "int32", ...where },
    { name: "other_logprob", dtype: "float32", ...where },
    { name: "change", dtype: "float32", ...cells },
    { name: "kl_between", dtype: "float32", ...cells },
  );
  header.vocab = { ...header.vocab, [10 * row + 1]: ` other${row}` };
  const more = [ids, logs, new Float32Array([0, -change]), new Float32Array([0, 2 * row])];
  return { header, buffers: [...buffers, ...more.map((array) => new DataView(array.buffer))] };
}

function both(meta = makeMeta({ other: OTHER })) {
  const store = new RunStore(meta, LENS);
  for (const row of [0, 1, 2]) {
    const { header, buffers } = makeBoth(row);
    store.apply(header, buffers);
  }
  return store;
}

describe("two lenses on one grid", () => {
  beforeEach(() => {
    stubBrowser();
    document.body.replaceChildren();
  });

  it("have numbers and tokens of their own", () => {
    const store = both();
    const [one, two] = [new LensData(store), new LensData(store, "other_")];
    expect(one.topId(2, 1)).toBe(20);
    expect(two.topId(2, 1)).toBe(21);
    expect(two.probability(2, 1)).toBeCloseTo(0.4);
    expect(two.meta.tokens.map((token) => token.text)).toEqual(OTHER.tokens);
    expect(one.meta.tokens.map((token) => token.text)).not.toEqual(OTHER.tokens);
    expect(two.tokenName(-1)).toBe("∅");
    expect(two.arrived(1)).toBe(true);
    expect(new LensData(new RunStore(makeMeta(), LENS), "other_").arrived(1)).toBe(false);
  });

  it("are told apart by change and divergence", () => {
    const store = both();
    expect(apart(store, 2, 1)).toEqual({ change: -0.5, kl: 4 });
    const change = new DifferenceData(store, "change");
    expect(change.value("probability", 0, 2, 1)).toBe(-0.5);
    expect(change.source("entropy", 0).topText(2, 1)).toBe(" tok2");
    expect(new DifferenceData(store, "kl").value("probability", 0, 2, 1)).toBe(4);
    expect(new DifferenceData(store, "kl").end()).toBe(2); // of 2 and 4, the most not counted
  });

  it("share what is selected, and each colours by itself", () => {
    const model = new FakeModel({ view: "lens", live: true, text: "a", row: 2, position: 1 });
    const session = new Session(model, LENS);
    session.store.value = both();
    const state = new ViewState(session, signal(false));
    const other = new OtherState(session, signal(false));
    expect(state.beside).toBe(true);
    expect(other.selected.value).toEqual(state.selected.value);
    state.select({ point: 1, position: 0 }, "now");
    expect(other.selected.value).toEqual({ point: 1, position: 0 });
    expect(state.data.value?.topId(1, 0)).toBe(10);
    expect(other.data.value?.topId(1, 0)).toBe(11);
    session.write({ compare: "kl" });
    expect(state.beside).toBe(false);
    expect(state.scale.value.label).toBe("KL to the other");
    session.write({ compare: "change" });
    expect(state.scale.value.index(0)).toBe(128);
  });

  it("stand side by side, and a second text is edited in place", async () => {
    const traits = { live: true, text: "a", other: "of Italy", other_kind: "text", row: 2 };
    const model = new FakeModel({ ...traits, position: 1, meta: makeMeta({ other: OTHER }) });
    const { el } = await shown(model);
    for (const row of [0, 1, 2]) {
      const { header, buffers } = makeBoth(row);
      model.message({ kind: "frame", ...header }, buffers);
    }
    await vi.waitFor(() => expect(el.querySelectorAll("[role=grid]")).toHaveLength(2));
    expect(el.querySelector(".ll-side")?.textContent).toContain("change of P(top token)−50.00");
    const field = el.querySelector<HTMLInputElement>(".ll-compared input");
    if (!field) throw new Error("no field for the other text");
    expect(field.value).toBe("of Italy");
    field.value = "of Spain";
    field.dispatchEvent(new Event("input", { bubbles: true }));
    field.dispatchEvent(new KeyboardEvent("keydown", { key: "Enter", bubbles: true }));
    expect(model.get("other")).toBe("of Spain");
    const change = Array.from(el.querySelectorAll("button")).find(
      (button) => button.textContent === "Change",
    );
    change?.click();
    expect(model.get("compare")).toBe("change");
    await vi.waitFor(() => expect(el.querySelectorAll("[role=grid]")).toHaveLength(1));
  });

  it("name a model or edits, which are not edited here", async () => {
    const other = { kind: "edits" as const, label: "ll.edit('z.0', 'zero')", tokens: [] };
    const traits = { live: true, text: "a", other: other.label, other_kind: "edits" };
    const { el } = await shown(new FakeModel({ ...traits, meta: makeMeta({ other }) }));
    expect(el.querySelector(".ll-compared")?.textContent).toContain("Edited run");
    expect(el.querySelector<HTMLInputElement>(".ll-compared input")?.readOnly).toBe(true);
  });
});
