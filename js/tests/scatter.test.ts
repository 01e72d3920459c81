import { beforeEach, describe, expect, it, vi } from "vitest";
import { ScatterData } from "../src/views/scatter/data";
import { between, ticks, windowOf } from "../src/views/scatter/frame";
import { HUES, SHAPES, styleOf } from "../src/views/scatter/marks";
import { sentence } from "../src/views/scatter/Pictures";
import { blended } from "../src/views/scatter/stamps";
import { SCATTER, type ScatterMeta } from "../src/wire/scatter";
import { RunStore } from "../src/wire/store";
import { FakeModel, makeAnswerMeta, makeBlocks } from "./fixtures";
import { stubBrowser, widget } from "./page";

const axis = (size: number, over = {}) => ({
  size,
  labels: Array.from({ length: size }, (_, i) => String(i)),
  numbers: null,
  long_name: "",
  ...over,
});

function meta(over: Partial<ScatterMeta["scatter"]> = {}): ScatterMeta {
  const map = ["labels", "point", "item"];
  const array = { ...makeAnswerMeta().arrays[0], dims: map, down: "", across: "", third: "" };
  const numbers = { numbers: [-1, 0, 1], role: "layer", long_name: "after layer" };
  return {
    ...makeAnswerMeta({ n_layers: 2, lead: "Marks.", doses: [], opens: "" }),
    arrays: [
      { ...array, name: "x", long_name: "first axis", units: "1" },
      { ...array, name: "y", long_name: "second axis", units: "m" },
    ] as ScatterMeta["arrays"],
    axes: {
      labels: axis(2, { labels: ["given", "shuffled"] }),
      point: axis(3, numbers),
      item: axis(4),
    },
    scatter: {
      x: "x",
      y: "y",
      steps: "point",
      items: "item",
      pictures: "labels",
      colors: "label",
      labels: ["cat", "dog"],
      words: ["a cat", "a dog", "cats", "dogs"],
      fitted: [1, 1, 0, 0],
      equal: true,
      ...over,
    },
  };
}

const count = (size: number) => Array.from({ length: size }, (_, i) => i);

/** Two pictures of three steps of four marks; the last step has not come. */
function frame(steps = 3) {
  const values = count(24).map((i) => (Math.floor(i / 4) % 3 < steps ? i : Number.NaN));
  const made = makeBlocks(1, [
    ["x", ["labels", "point", "item"], [0, 0, 0], [2, 3, 4], values],
    ["y", ["labels", "point", "item"], [0, 0, 0], [2, 3, 4], values.map((v) => -v)],
  ]);
  const labels = { name: "label_id", dims: ["labels", "item"], start: [0, 0], shape: [2, 4] };
  made.header.arrays.push({ ...labels, dtype: "int32" });
  made.buffers.push(new DataView(Int32Array.from([0, 1, 0, 1, 1, 0, 0, -1]).buffer));
  made.header.last = true;
  return made;
}

function scatter(steps = 3, over: Partial<ScatterMeta["scatter"]> = {}): ScatterData {
  const store = new RunStore(meta(over), SCATTER as never) as RunStore<ScatterMeta>;
  const { header, buffers } = frame(steps);
  store.apply(header, buffers);
  return new ScatterData(store);
}

describe("the marks of a scatter", () => {
  it("are where the arrays say, with labels of each picture", () => {
    const data = scatter();
    expect([data.size, data.steps, data.pictures]).toEqual([4, 3, 2]);
    expect(data.at(1, 2, 3)).toEqual([23, -23]);
    expect(Array.from(data.labels(1))).toEqual([1, 0, 0, -1]);
    expect(sentence(data, 0, 1)).toBe("a dog; dog; axes were fitted on it; at 1, −1");
    expect(Array.from(scatter(3, { colors: "depth" }).labels(0))).toEqual([0, 1, 2, 3]);
  });

  it("know how far they have come, and how far they reach", () => {
    expect(scatter(2).newest()).toBe(1);
    expect(scatter(0).extent(null)).toBeNull();
    expect(scatter(3).extent(null)?.x).toEqual([0, 23]);
    expect(scatter(3).extent(1)).toEqual({ x: [4, 19], y: [-19, -4] });
  });

  it("differ in colour and shape, as many labels as there may be", () => {
    const looks = new Set(count(40).map((label) => JSON.stringify(styleOf(label))));
    expect(looks.size).toBe(40);
    expect(HUES.length * SHAPES.length).toBeGreaterThanOrEqual(40);
    expect(styleOf(-1).hue).not.toBe(styleOf(0).hue);
  });

  it("are laid over each other as light is", () => {
    const [red, blue] = [0xff0000ff, 0xffff0000].map((one) => one >>> 0) as [number, number];
    expect(blended(red, blue)).toBe(red);
    const half = blended(0x800000ff, blue);
    const [r, b, opacity] = [half & 255, (half >>> 16) & 255, half >>> 24];
    expect(opacity).toBe(255);
    for (const channel of [r, b]) expect(Math.abs(channel - 127.5)).toBeLessThan(1);
    // An edge over an edge lets through a quarter, and both have a share.
    const edges = blended(0x800000ff, 0x80ff0000);
    expect(edges >>> 24).toBe(192);
    expect((edges & 255) / ((edges & 255) + ((edges >>> 16) & 255))).toBeCloseTo(2 / 3, 1);
  });
});

describe("the axes of a scatter", () => {
  const inside = { x: 0, y: 0, width: 200, height: 100 };

  it("hold all marks, with one scale where that is asked for", () => {
    const free = windowOf({ x: [0, 10], y: [0, 1] }, false, inside);
    expect([free.left, free.right]).toEqual([-0.5, 10.5]);
    const equal = windowOf({ x: [0, 10], y: [0, 1] }, true, inside);
    const perPixel = [(equal.right - equal.left) / 200, (equal.top - equal.bottom) / 100];
    expect(perPixel[0]).toBeCloseTo(perPixel[1] ?? 0);
    expect((equal.top + equal.bottom) / 2).toBeCloseTo(0.5);
    expect(between(free, equal, 0)).toEqual(free);
  });

  it("have round numbers", () => {
    expect(ticks(-1.2, 1.3, 5)).toEqual([-1, -0.5, 0, 0.5, 1]);
    expect(ticks(0, 0, 5)).toEqual([]);
  });
});

describe("the view of a scatter", () => {
  beforeEach(() => {
    stubBrowser();
    HTMLCanvasElement.prototype.toDataURL = () => "data:,";
    document.body.replaceChildren();
  });

  async function view(over: Record<string, unknown> = {}, steps = 3) {
    const status = { state: "done", run: 1, done: 1, total: 1, what: "", message: "", seconds: 1 };
    const model = new FakeModel({ view: "scatter", live: true, meta: meta(), status, ...over });
    const { initialize, render } = await widget("scatter");
    const el = document.createElement("div");
    document.body.append(el);
    initialize({ model });
    render({ model, el });
    const { header, buffers } = frame(steps);
    model.message({ kind: "frame", ...header }, buffers);
    await vi.waitFor(() => expect(el.querySelectorAll(".ll-scatter-row canvas")).toHaveLength(2));
    const list = el.querySelector("[role=listbox]") as HTMLElement;
    const press = (key: string) =>
      list.dispatchEvent(new KeyboardEvent("keydown", { key, bubbles: true }));
    const shown = () => el.querySelector(".ll-scatter-bar output")?.textContent;
    return { el, model, press, list, shown };
  }

  it("is walked through by keys: marks to the side, layers upwards", async () => {
    const { el, model, press, list, shown } = await view();
    press("ArrowRight");
    press("ArrowRight");
    expect(model.get("item")).toBe(1);
    await vi.waitFor(() => expect(list.getAttribute("aria-activedescendant")).toMatch(/-1$/));
    const chosen = el.querySelector("[role=option][aria-selected=true]");
    expect(chosen?.textContent).toBe("a dog; dog; axes were fitted on it; at 9, −9");
    expect(shown()).toBe("layer 1");
    press("ArrowDown");
    expect([model.get("layer"), model.get("step")]).toEqual([0, 1]);
    press("ArrowDown");
    // The embedding is no layer that another view could follow to.
    expect([model.get("layer"), model.get("step")]).toEqual([-1, 0]);
    await vi.waitFor(() => expect(shown()).toBe("embed"));
    press("Escape");
    expect(model.get("item")).toBe(-1);
  });

  it("follows the layer of other views, and the newest while a run goes on", async () => {
    const { model, shown } = await view({}, 2);
    expect(shown()).toBe("layer 0");
    model.push("layer", 1);
    await vi.waitFor(() => expect(shown()).toBe("layer 1"));
  });

  it("leaves out labels, and what axes were fitted on, also for keys", async () => {
    const { el, model, press } = await view();
    const buttons = el.querySelectorAll<HTMLButtonElement>(".ll-scatter-labels button");
    expect(Array.from(buttons, (button) => button.textContent)).toEqual([
      "cat",
      "dog",
      "outlines: axes were fitted on these",
    ]);
    buttons[0]?.click();
    expect(model.get("hidden_labels")).toEqual(["cat"]);
    press("Home");
    expect(model.get("item")).toBe(1);
    buttons[2]?.click();
    expect(model.get("fitted")).toBe(false);
    press("Home");
    expect(model.get("item")).toBe(3);
  });
});
