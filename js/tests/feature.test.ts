import { beforeEach, describe, expect, it, vi } from "vitest";
import { FeatureData } from "../src/views/feature/data";
import { FEATURE, type FeatureMeta } from "../src/wire/feature";
import { RunStore } from "../src/wire/store";
import { FakeModel, makeAnswerMeta, makeBlocks } from "./fixtures";
import { stubBrowser, widget } from "./page";

const NONE = Number.NaN;
const WORDS = ["cat", " dog", " owl", "<b>"];
const SIZES = {
  example: 3,
  rank: 1,
  offset: 3,
  band: 2,
  bin: 4,
  side: 2,
  order: 1,
  near: 2,
  prompt_position: 1,
  step: 2,
  strength: 2,
};
const FLOATS: [string, string[], number[]][] = [
  ["activation", ["example"], [2, 1, NONE]],
  ["context_activation", ["example", "offset"], [NONE, 2, 0, 0.5, 1, NONE, NONE, NONE, NONE]],
  ["shuffled_activation", ["rank"], [0.25]],
  ["kl_without", ["rank"], [0.5]],
  ["other_kl_without", ["rank"], [0.125]],
  ["bin_top", ["bin"], [0.5, 1, 1.5, 2]],
  ["band_from", ["band"], [1, 0]],
  ["band_to", ["band"], [2, 1]],
  ["density", [], [0.1]],
  ["shuffled_density", [], [0.2]],
  ["sparser", [], [0.75]],
  ["largest", [], [2]],
  ["effect_score", ["side", "order"], [1.5, -1.25]],
  ["random_effect_score", ["side", "order"], [0.5, -0.5]],
  ["neighbour_cosine", ["near"], [0.5, NONE]],
  ["random_cosine", ["near"], [0.25, NONE]],
  ["steer_kl", ["strength"], [0.75, 3]],
  ["other_steer_kl", ["strength"], [0.01, 0.02]],
];
const WHOLE: [string, string[], number[]][] = [
  ["token", ["example"], [1, 2, -1]],
  ["text", ["example"], [4, 0, -1]],
  ["context_token", ["example", "offset"], [0, 1, 3, 1, 2, -1, -1, -1, -1]],
  ["count", ["bin"], [1, 0, 3, 0]],
  ["shuffled_count", ["bin"], [1, 0, 0, 1]],
  ["band_count", ["band"], [3, 1]],
  ["firings", [], [4]],
  ["counted", [], [40]],
  ["features", [], [8]],
  ["other_feature", [], [5]],
  ["effect_token", ["side", "order"], [2, 0]],
  ["neighbour", ["near"], [6, -1]],
  ["neighbour_token", ["near"], [1, -1]],
  ["prompt_token", ["prompt_position"], [0]],
  ["own_token", ["step"], [0, 0]],
  ["steered_token", ["strength", "step"], [1, 1, 2, -1]],
  ["other_steered_token", ["strength", "step"], [0, 1, 0, 2]],
  ["steered_layer", [], [3]],
];

function meta(): FeatureMeta {
  const axes = Object.entries(SIZES).map(([dim, size]) => [
    dim,
    { size, labels: [], numbers: null, long_name: dim },
  ]);
  const of =
    (dtype: "float" | "int") =>
    ([name, dims]: [string, string[], number[]]) => ({
      name,
      metric: name,
      long_name: name,
      units: "1",
      dims,
      dtype,
      interval: false,
      kind: "table" as const,
      other: false,
      missing: -1,
    });
  const arrays = [...FLOATS.map(of("float")), ...WHOLE.map(of("int"))];
  return {
    ...makeAnswerMeta({ n_layers: 4, lead: "Read.", doses: [], arrays: arrays as never }),
    model: "toy",
    opens: "cell",
    finds: "features",
    axes: Object.fromEntries(axes),
    tokens: { text: WORDS.map((text, id) => ({ id, text, cont: false })) },
    feature: { number: 2, site: "mlp_out", layers: [3], groups: [0, 1, 2], strengths: [1, 2] },
  };
}

function frame(firings = 4) {
  const shape = (dims: string[]) => dims.map((dim) => SIZES[dim as keyof typeof SIZES]);
  const start = (dims: string[]) => dims.map(() => 0);
  const made = makeBlocks(
    1,
    FLOATS.map(([name, dims, values]) => [name, dims, start(dims), shape(dims), values]),
    true,
  );
  for (const [name, dims, values] of WHOLE) {
    const header = { name, dims, dtype: "int32" as const, start: start(dims), shape: shape(dims) };
    made.header.arrays.push(header);
    const own = name === "firings" ? [firings] : values;
    made.buffers.push(new DataView(Int32Array.from(own).buffer));
  }
  return made;
}

function page(): FeatureData {
  const store = new RunStore(meta(), FEATURE as never) as RunStore<FeatureMeta>;
  const { header, buffers } = frame();
  store.apply(header, buffers);
  return new FeatureData(store);
}

describe("the page of a feature", () => {
  it("has the examples of each group that there are", () => {
    const data = page();
    expect([data.examples(0), data.examples(1), data.examples(2)]).toEqual([[0], [1], []]);
    expect(data.context(0).map(({ text, mark, own }) => [text, mark, own])).toEqual([
      ["cat", 0, false],
      [" dog", 1, true],
      ["<b>", 0, false],
    ]);
    // Beyond the end of the row there is no token.
    expect(data.context(1)).toHaveLength(2);
  });

  it("counts shares up to the last bin that holds anything, of either side", () => {
    const bins = page().bins();
    expect(bins.map(({ share }) => share)).toEqual([0.25, 0, 0.75, 0]);
    expect(bins.map(({ shuffled }) => shuffled)).toEqual([0.5, 0, 0, 0.5]);
  });

  it("knows the texts of the strengths that were tried, and of none", () => {
    const data = page();
    expect(data.steered(2)).toEqual({
      text: " owl",
      other: "cat owl",
      kl: 3,
      otherKl: expect.closeTo(0.02),
    });
    expect(data.steered(0)?.text).toBe("catcat");
    expect(data.steered(0.5)).toBeNull();
    expect(data.near().map(({ number }) => number)).toEqual([6]);
  });
});

describe("the view of a feature", () => {
  beforeEach(() => {
    stubBrowser();
    document.body.replaceChildren();
  });

  async function view(over: Record<string, unknown> = {}, firings?: number) {
    const status = { state: "done", run: 1, done: 1, total: 1, what: "", message: "", seconds: 1 };
    const options = { number: 2, k: 1 };
    const model = new FakeModel({
      view: "feature",
      live: true,
      meta: meta(),
      status,
      options,
      ...over,
    });
    const { initialize, render } = await widget("feature");
    const el = document.createElement("div");
    document.body.append(el);
    initialize({ model });
    render({ model, el });
    const { header, buffers } = frame(firings);
    model.message({ kind: "frame", ...header }, buffers);
    await vi.waitFor(() => expect(el.querySelector(".ll-feature-written")).not.toBeNull());
    const asked = (method: string) => model.sent.filter((message) => message.method === method);
    return { el, model, asked };
  }

  function type(field: Element | null, value: string, event = "input") {
    (field as HTMLInputElement).value = value;
    field?.dispatchEvent(new Event(event, { bubbles: true }));
  }

  it("says how often it is on beside the texts shuffled, and shows text as text", async () => {
    const { el } = await view();
    expect(el.querySelector("[aria-label='How often it is on'] p")?.textContent).toBe(
      "At 10 % of 40 tokens; 20 % with the texts shuffled. 75 % of the other features are on less often. Its strongest: 2.",
    );
    expect(el.querySelector(".ll-feature-text b")).toBeNull();
    expect(el.querySelector(".ll-feature-examples tbody tr")?.textContent).toContain("<b>");
  });

  it("has no heading for examples that there are none of", async () => {
    const { el } = await view({}, 0);
    expect(el.querySelector("[aria-label='Examples']")).toBeNull();
  });

  it("goes to another feature by its number and by its neighbours", async () => {
    const { el, model } = await view();
    const field = el.querySelector(".ll-feature-pick input");
    type(field, "7");
    type(field, "7", "change");
    expect(model.get("options")).toEqual({ number: 7, k: 1 });
    type(field, "99");
    type(field, "99", "change");
    expect(model.get("options")).toEqual({ number: 7, k: 1 });
    el.querySelector<HTMLButtonElement>("[aria-label='What it writes'] button")?.click();
    expect(model.get("options")).toEqual({ number: 6, k: 1 });
  });

  it("has a text written at a strength that was not tried, once the slider rests", async () => {
    const { el, model, asked } = await view();
    const slider = el.querySelector(".ll-feature-slide input");
    type(slider, "2");
    await vi.waitFor(() =>
      expect(el.querySelectorAll(".ll-feature-written dd")[2]?.textContent).toBe("␣owl"),
    );
    type(slider, "1.5");
    await vi.waitFor(() => expect(asked("steer")).toHaveLength(1));
    const [{ rid, params }] = asked("steer") as never as [{ rid: string; params: object }];
    expect(params).toEqual({ strength: 1.5 });
    const tokens = (text: string) => ({ tokens: [{ text, mark: 0 }] });
    const result = { title: "", code: "", tables: [], texts: [tokens("new"), tokens("old")] };
    model.message({ kind: "reply", rid, result }, []);
    await vi.waitFor(() =>
      expect(
        Array.from(el.querySelectorAll(".ll-feature-written dd"), (dd) => dd.textContent),
      ).toEqual(["cat", "catcat", "new", "old"]),
    );
  });

  it("slides through what was tried where there is no kernel, and says why", async () => {
    const { el, asked } = await view({ live: false });
    const slider = el.querySelector<HTMLInputElement>(".ll-feature-slide input");
    expect([slider?.max, slider?.value]).toEqual(["2", "1"]);
    type(slider, "2");
    await vi.waitFor(() => expect(slider?.getAttribute("aria-valuetext")).toBe("strength 2"));
    expect(el.querySelector(".ll-feature-slide")?.textContent).toContain("3 were tried");
    expect(asked("steer")).toEqual([]);
    expect(el.querySelector<HTMLInputElement>(".ll-feature-pick input")?.disabled).toBe(true);
  });

  it("keeps what someone wrote of a feature, and forgets what was emptied", async () => {
    const { el, model } = await view({ meanings: { "5": "birds" } });
    const field = el.querySelector(".ll-feature-meaning textarea");
    type(field, "dogs");
    expect(model.get("meanings")).toEqual({ "5": "birds", "2": "dogs" });
    await vi.waitFor(() =>
      expect(el.querySelector(".ll-feature-meaning")?.textContent).toContain("2 features"),
    );
    type(field, " ");
    expect(model.get("meanings")).toEqual({ "5": "birds" });
  });
});
