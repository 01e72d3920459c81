import { beforeEach, describe, expect, it, vi } from "vitest";
import { StripData } from "../src/views/strip/data";
import { RunStore } from "../src/wire/store";
import { STRIP, type StripMeta } from "../src/wire/strip";
import { FakeModel, makeAnswerMeta, makeBlocks } from "./fixtures";
import { stubBrowser, widget } from "./page";

const axis = (size: number, over = {}) => ({
  size,
  labels: Array.from({ length: size }, (_, i) => String(i)),
  numbers: null,
  long_name: "",
  ...over,
});

function meta(): StripMeta {
  const made = makeAnswerMeta({ n_layers: 2, doses: [], scales: {} });
  const [grid] = made.arrays as [StripMeta["arrays"][number]];
  const curve = { ...grid, kind: "curve" as const, dims: ["point"], down: "", across: "point" };
  return {
    ...made,
    arrays: [
      { ...grid, name: "own", long_name: "relevance", units: "logit", dims: ["point", "position"] },
      // Rows may have their axes in another order.
      { ...grid, name: "chance", long_name: "for others", dims: ["position", "point"] },
      { ...curve, name: "total", long_name: "sum", units: "logit" },
      { ...grid, name: "heads", long_name: "by head", dims: ["point", "head", "position"] },
    ].map((one) => (one.name === "chance" ? { ...one, units: "logit" } : one)),
    axes: {
      point: axis(3, { numbers: [-1, 0, 1], role: "layer", long_name: "after layer" }),
      position: axis(3, { numbers: [0, 1, 2], role: "position", tokens: "text" }),
      head: axis(1, { role: "head" }),
    },
    tokens: {
      text: [" Paris", "\n", ""].map((text, id) => ({ id, text, cont: text === "" })),
    },
    strip: {
      steps: "point",
      items: "position",
      rows: ["own", "chance"],
      beside: ["total"],
      start: -1,
    },
    theirs: [],
  };
}

/** Depths that have not come are no numbers. */
function frame(steps = 3) {
  const own = [1, -4, 0.5, 0, 2, 0, 0, 0, 8].map((v, i) => (i < 3 * steps ? v : Number.NaN));
  const made = makeBlocks(1, [
    ["own", ["point", "position"], [0, 0], [3, 3], own],
    ["chance", ["position", "point"], [0, 0], [3, 3], [0, 0, 0, -1, 0, 0, 0, 0, 16]],
    ["total", ["point"], [0], [3], [-2.5, 2, 8]],
  ]);
  made.header.last = true;
  return made;
}

function strip(steps = 3): StripData {
  const store = new RunStore(meta(), STRIP as never) as RunStore<StripMeta>;
  const { header, buffers } = frame(steps);
  store.apply(header, buffers);
  return new StripData(store);
}

describe("the numbers of strips", () => {
  it("are found whatever the order of their axes", () => {
    const data = strip();
    const [own, chance] = data.rows as [StripData["rows"][number], StripData["rows"][number]];
    expect(data.numbers(own, 0)).toEqual([1, -4, 0.5]);
    expect(data.numbers(chance, 0)).toEqual([0, -1, 0]);
    expect(data.numbers(chance, 2)).toEqual([0, 0, 16]);
    expect(data.sentence(0, 1)).toBe("↵, position 1: relevance −4 logit; for others −1 logit");
  });

  it("of one unit have one scale, of a depth or of all", () => {
    const data = strip();
    expect(data.byUnit().map((rows) => rows.map(({ name }) => name))).toEqual([["own", "chance"]]);
    expect(data.extent(data.rows, 0)).toEqual({ low: -4, high: 1 });
    expect(data.extent(data.rows, null)).toEqual({ low: -4, high: 16 });
  });
});

describe("the view of strips", () => {
  beforeEach(() => {
    stubBrowser();
    document.body.replaceChildren();
  });

  async function view(over: Record<string, unknown> = {}) {
    const status = { state: "done", run: 1, done: 1, total: 1, what: "", message: "", seconds: 1 };
    const model = new FakeModel({ view: "strip", live: true, meta: meta(), status, ...over });
    const { initialize, render } = await widget("strip");
    const el = document.createElement("div");
    document.body.append(el);
    initialize({ model });
    render({ model, el });
    const { header, buffers } = frame();
    model.message({ kind: "frame", ...header }, buffers);
    await vi.waitFor(() => expect(el.querySelectorAll("[role=listbox]")).toHaveLength(2));
    const list = el.querySelector("[role=listbox]") as HTMLElement;
    const press = (key: string) =>
      list.dispatchEvent(new KeyboardEvent("keydown", { key, bubbles: true }));
    const names = () =>
      Array.from(list.querySelectorAll("[role=option]"), (one) => one.getAttribute("aria-label"));
    const shown = () => el.querySelector(".ll-strip-bar output")?.textContent;
    return { el, model, press, list, names, shown };
  }

  it("says whose row is whose beside a second text", async () => {
    const both = meta();
    const [own, chance, total] = both.arrays as StripMeta["arrays"];
    const arrays = [
      own,
      { ...chance, other: true, long_name: "relevance" },
      { ...total, other: true },
    ];
    const other = { label: "another text" } as StripMeta["other"];
    const theirs = [" Rome", "\n", ""].map((text, i) => ({ id: 9 + i, text, cont: text === "" }));
    const { el } = await view({ meta: { ...both, arrays, other, theirs } });
    const names = (selector: string) =>
      Array.from(el.querySelectorAll(selector), (one) => one.textContent);
    expect(names(".ll-strip-row h3")).toEqual(["Relevance", "Relevance · another text"]);
    expect(names(".ll-strip-beside dt")).toEqual(["Sum · another text"]);
    expect(names("[data-item='0']")).toEqual(["␣Paris", "␣Rome"]);
  });

  it("draws a difference of two texts with both tokens, where they differ", async () => {
    const both = meta();
    const [own, chance] = both.arrays as StripMeta["arrays"];
    const arrays = [own, { ...chance, name: "change_own" }] as StripMeta["arrays"];
    const strip = { ...both.strip, rows: ["own", "change_own"], beside: [] };
    const theirs = both.tokens.text?.map((one, i) => (i ? one : { ...one, id: 9, text: " Rome" }));
    const { el } = await view({ meta: { ...both, arrays, strip, theirs } });
    const drawn = Array.from(el.querySelectorAll("[role=option]"), (one) => one.textContent);
    expect(drawn.slice(0, 2)).toEqual(["␣Paris", "↵"]);
    expect(drawn.slice(3, 5)).toEqual(["␣Paris→␣Rome", "↵"]);
    const said = el.querySelectorAll("[data-item='0']")[1]?.getAttribute("aria-label");
    expect(said).toMatch(/^␣Paris → ␣Rome, position 0: /);
  });

  it("begins where it is told to, before anyone has moved it", async () => {
    const { shown, press } = await view({
      meta: { ...meta(), strip: { ...meta().strip, start: 0 } },
    });
    expect(shown()).toBe("embed");
    press("ArrowUp");
    await vi.waitFor(() => expect(shown()).toBe("layer 0"));
  });

  it("is walked through by keys: tokens to the side, layers upwards", async () => {
    const { el, model, press, list, names, shown } = await view();
    expect(shown()).toBe("layer 1");
    expect(names()[2]).toBe("⋯ (goes on), position 2: 8 logit");
    press("ArrowRight");
    press("ArrowRight");
    expect(model.get("position")).toBe(1);
    await vi.waitFor(() => expect(list.getAttribute("aria-activedescendant")).toMatch(/-1$/));
    expect(list.querySelector("[aria-selected=true]")?.textContent).toBe("↵");
    expect(list.querySelectorAll("br")).toHaveLength(1);
    press("ArrowDown");
    expect([model.get("layer"), model.get("step")]).toEqual([0, 1]);
    press("ArrowDown");
    // The embedding is no layer that another view could follow to.
    expect([model.get("layer"), model.get("step")]).toEqual([-1, 0]);
    await vi.waitFor(() => expect(shown()).toBe("embed"));
    expect(names()[1]).toBe("↵, position 1: −4 logit");
    expect(el.querySelector(".ll-strip-says")?.textContent).toContain("relevance −4 logit");
    expect(el.querySelector(".ll-strip-beside dd")?.textContent).toBe("−2.5 logit");
  });

  it("follows the layer and the position of other views", async () => {
    const { model, list, shown } = await view();
    model.push("layer", 0);
    model.push("position", 2);
    await vi.waitFor(() => expect(shown()).toBe("layer 0"));
    expect(list.getAttribute("aria-activedescendant")).toMatch(/-2$/);
  });

  it("has no colour at 0 and ends at the largest number, of one layer or of all", async () => {
    const { el, model, list, press } = await view({ step: 0 });
    const fills = () =>
      Array.from(
        list.querySelectorAll<HTMLElement>("[role=option]"),
        (one) => one.style.background,
      );
    const [weak, strong] = fills();
    expect(strong).toBe("rgb(179, 38, 30)");
    expect(weak).not.toBe(strong);
    const buttons = Array.from(el.querySelectorAll<HTMLElement>(".ll-strip-bar button, input"));
    buttons.find((one) => one.textContent === "all layers")?.click();
    expect(model.get("colors")).toBe("all");
    await vi.waitFor(() => expect(fills()[1]).not.toBe(strong));
    press("ArrowUp");
    await vi.waitFor(() => expect(fills()[0]).toBe(fills()[2]));
  });

  it("colours a slight number below zero, too", async () => {
    const { list } = await view({ step: 0, colors: "all" });
    const chance = list.ownerDocument.querySelectorAll<HTMLElement>("[role=listbox]")[1];
    const fill = chance?.querySelector<HTMLElement>("[data-item='1']")?.style.background ?? "";
    const [red, , blue] = (fill.match(/\d+/g) ?? []).map(Number) as [number, number, number];
    expect(red).toBeGreaterThan(blue);
  });

  it("opens a token, and names what it does not draw", async () => {
    const { el, model, list, press } = await view();
    press("End");
    press("Enter");
    await vi.waitFor(() => expect(el.querySelector(".ll-cell")).not.toBeNull());
    const asked = model.sent.at(-1) as unknown as { params: object };
    expect(asked.params).toMatchObject({ array: "own", index: [2, 2] });
    (list.querySelector("[data-item='0']") as HTMLElement).click();
    expect(model.get("position")).toBe(0);
    expect(el.textContent).toContain("Not drawn here, but in a view of grids: by head.");
  });
});
