import { signal } from "@preact/signals";
import { beforeEach, describe, expect, it, vi } from "vitest";
import { apart } from "../src/views/lens/difference";
import { guesses, isWorse, scoresOf } from "../src/views/lens/scores";
import { OtherState, ViewState } from "../src/views/lens/state";
import { LENS } from "../src/wire/lens";
import { Session } from "../src/wire/session";
import { RunStore } from "../src/wire/store";
import type { FrameHeader, WireDtype } from "../src/wire/types";
import { FakeModel, makeMeta } from "./fixtures";
import { shown, stubBrowser } from "./page";

const LENSES = [
  { name: "logit", points: null, heldout: [9, 2, null], uniform: 4 },
  { name: "ridge", points: ["embed", "0_post"], heldout: null, uniform: null },
];
const META = makeMeta({ lenses: LENSES });

/** All three rows of both lenses: ids 100·lens + 10·row, KL to final lens + row. */
function whole() {
  const cells = [0, 1].flatMap((lens) => [0, 1, 2].map((row) => ({ lens, row })));
  const every = <T>(of: (lens: number, row: number) => T[]) =>
    cells.flatMap(({ lens, row }) => of(lens, row));
  const arrays: [string, WireDtype, Float32Array | Uint32Array, number][] = [
    [
      "token_id",
      "uint32",
      new Uint32Array(every((l, r) => [1, 2, 1, 2].map((k) => 100 * l + 10 * r + k))),
      2,
    ],
    [
      "logprob",
      "float32",
      new Float32Array(every((l) => [0.5, 0.2, 0.5 - 0.1 * l, 0.2].map(Math.log))),
      2,
    ],
    ["kl_to_final", "float32", new Float32Array(every((l, r) => [l + r, l + r + 2])), 0],
    ["entropy", "float32", new Float32Array(every((_, r) => [1 - 0.25 * r, 1 + 0.25 * r])), 0],
    ["kl_between", "float32", new Float32Array(every((l, r) => [l * r, l * r])), 0],
    ["change", "float32", new Float32Array(every((l) => [0, -0.1 * l])), 0],
  ];
  const header: FrameHeader = {
    run: 1,
    seq: 1,
    last: true,
    vocab: { 111: " ridge1" },
    arrays: arrays.map(([name, dtype, , k]) => ({
      name,
      dtype,
      dims: ["lens", "point", "position", ...(k ? ["k"] : [])],
      start: k ? [0, 0, 0, 0] : [0, 0, 0],
      shape: [2, 3, 2, ...(k ? [k] : [])],
    })),
  };
  return { header, buffers: arrays.map(([, , array]) => new DataView(array.buffer)) };
}

function store() {
  const made = new RunStore(META, LENS);
  const { header, buffers } = whole();
  made.apply(header, buffers);
  return made;
}

describe("several lenses over one pass", () => {
  beforeEach(() => {
    stubBrowser();
    document.body.replaceChildren();
  });

  it("are looked at one by one, side by side or as a difference from the first", () => {
    const model = new FakeModel({ view: "lens", live: true, text: "a", compare: "alone" });
    const session = new Session(model, LENS);
    session.store.value = store();
    const state = new ViewState(session, signal(false));
    const other = new OtherState(session, signal(false));
    expect(state.data.value?.topId(1, 0)).toBe(11);
    session.write({ through: 1 });
    expect(state.data.value?.topId(1, 0)).toBe(111);
    expect(state.data.value?.name).toBe("ridge");
    expect([state.compared, state.beside]).toEqual([false, false]);
    session.write({ compare: "beside" });
    expect(state.beside).toBe(true);
    expect(state.data.value?.topId(1, 0)).toBe(11);
    expect(other.data.value?.topId(1, 0)).toBe(111);
    expect(other.label).toBe("ridge lens");
    session.write({ compare: "kl" });
    expect(state.data.value?.value("probability", 0, 2, 1)).toBe(2);
    expect(state.scale.value.label).toBe("KL to the ridge lens");
    expect(apart(store(), 2, 1, 1).change).toBeCloseTo(-0.1);
    // The first one is compared with nothing.
    session.write({ through: 0 });
    expect(state.compared).toBe(false);
  });

  it("follow a pinned token through each", () => {
    const model = new FakeModel({ view: "lens", live: false, text: "a", compare: "beside" });
    const session = new Session(model, LENS);
    session.store.value = store();
    const state = new ViewState(session, signal(false));
    session.write({ pins: [{ position: 1, id: 111 }], through: 1 });
    expect(state.trajectories.value.map(({ lens }) => lens)).toEqual(["logit", "ridge"]);
    expect(state.trajectories.value[0]?.values).toEqual([null, null, null]);
    expect(state.trajectories.value[1]?.values[1]).toBeCloseTo(0.4);
  });

  it("are scored on texts set apart, or on this one, and doubted beyond a uniform guess", () => {
    const [logit, ridge] = scoresOf(store());
    expect(logit?.values).toEqual([9, 2, Number.NaN]);
    expect(logit?.heldout).toBe(true);
    expect(ridge?.values).toEqual([2, 3, 4]);
    expect(ridge?.heldout).toBe(false);
    expect([0, 1, 2].map((point) => isWorse(logit, point))).toEqual([true, false, false]);
    expect(logit?.uniform).toBe(4);
    // ln V less the final answer's entropy: 0.5 and 1.5 nats.
    expect(ridge?.uniform).toBeCloseTo(Math.log(100) - 1);
    expect(guesses(scoresOf(store()))).toHaveLength(2);
    expect(scoresOf(new RunStore(makeMeta(), LENS))).toEqual([]);
  });

  it("have a switch that asks the kernel nothing", async () => {
    const traits = { live: true, text: "a", compare: "alone", row: 0, lens: ["logit", "ridge"] };
    const model = new FakeModel({ ...traits, meta: META });
    const { el } = await shown(model);
    const { header, buffers } = whole();
    model.message({ kind: "frame", ...header }, buffers);
    await vi.waitFor(() => expect(el.querySelectorAll("[role=grid]")).toHaveLength(1));
    const press = (words: string) =>
      Array.from(el.querySelectorAll("button")).find((b) => b.textContent === words);
    expect(el.textContent).toContain("Logit and ridge lens");
    expect(el.querySelector(".ll-side")?.textContent).toContain("worse than a uniform guess");
    expect(el.querySelector(".ll-scores")?.textContent).toContain("mean KL, this text2.00");
    expect(press("Side by side")?.disabled).toBe(true);
    expect(press("All")?.title).toContain("ridge lens was not fitted");
    const sent = model.sent.length;
    press("ridge")?.click();
    expect(model.get("through")).toBe(1);
    await vi.waitFor(() => expect(press("Side by side")?.disabled).toBe(false));
    press("Side by side")?.click();
    await vi.waitFor(() => expect(el.querySelectorAll("[role=grid]")).toHaveLength(2));
    expect(model.sent.length).toBe(sent);
  });

  it("are compared with another one when a running kernel is asked", async () => {
    const lenses = [...LENSES, { name: "bias", points: null, heldout: null, uniform: null }];
    const meta = makeMeta({ lenses, against: 1 });
    const traits = { live: true, text: "a", compare: "beside", row: 0, through: 0 };
    const model = new FakeModel({ ...traits, lens: lenses.map(({ name }) => name), meta });
    const { el } = await shown(model);
    const { header, buffers } = whole();
    model.message({ kind: "frame", ...header }, buffers);
    await vi.waitFor(() => expect(el.querySelectorAll("[role=grid]")).toHaveLength(2));
    const heads = Array.from(el.querySelectorAll(".ll-two h3"), (head) => head.textContent);
    expect(heads).toEqual(["ridge lens", "logit lens"]);
    const choice = el.querySelector<HTMLSelectElement>("select[aria-label='Compared with']");
    expect(choice?.value).toBe("ridge");
    if (choice) choice.value = "bias";
    choice?.dispatchEvent(new Event("change", { bubbles: true }));
    expect(model.get("options")).toMatchObject({ against: "bias" });
  });
});
