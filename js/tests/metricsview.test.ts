import { beforeEach, describe, expect, it, vi } from "vitest";
import { CATALOGUE, FakeModel, makeMetrics, makeMetricsMeta, pack } from "./fixtures";
import { shown, stubBrowser } from "./page";

const DONE = { state: "done", run: 1, done: 3, total: 3, what: "", message: "", seconds: 1 };

async function view(over: Record<string, unknown> = {}) {
  const model = new FakeModel({
    view: "metrics",
    live: true,
    texts: ["one", "two"],
    catalogue: CATALOGUE,
    meta: makeMetricsMeta(),
    status: DONE,
    ...over,
  });
  const page = await shown(model);
  const { header, buffers } = makeMetrics();
  model.message({ kind: "frame", ...header }, buffers);
  const { el } = page;
  const panel = (title: string) => el.querySelector(`[aria-label="${title}"]`);
  await vi.waitFor(() => expect(panel("Ratio")).not.toBeNull());
  const press = (target: Element | null, key: string) =>
    target?.dispatchEvent(new KeyboardEvent("keydown", { key, bubbles: true, composed: true }));
  return { ...page, model, panel, press, panels: () => el.querySelector(".ll-panels") };
}

describe("the view of metrics", () => {
  beforeEach(() => {
    stubBrowser();
    document.body.replaceChildren();
  });

  it("shows curves in panels with their units, and reads the selected layer out in all", async () => {
    const { panel, model } = await view({ layer: 1 });
    expect(panel("Norm")?.textContent).toContain("activation");
    expect(panel("Norm")?.textContent).toContain("30");
    expect(panel("Ratio")?.textContent).toContain("0.2 [0.15, 0.25]");
    model.push("layer", 2);
    await vi.waitFor(() => expect(panel("Norm")?.textContent).toContain("40"));
  });

  it("follows a linked layer without answering, and leaves one alone that it does not have", async () => {
    const { el, model } = await view();
    const saved = model.saved.length;
    model.push("layer", 30);
    await vi.waitFor(() => expect(el.querySelector("output")?.textContent).toBe("no layer"));
    model.push("layer", 2);
    await vi.waitFor(() => expect(el.querySelector("output")?.textContent).toBe("layer 2"));
    expect(model.saved.length).toBe(saved);
    expect(model.sent.map(({ kind }) => kind)).toEqual(["ready"]);
  });

  it("selects by arrow keys; Escape leaves the layer to those who share it", async () => {
    const { model, press, panels } = await view();
    press(panels(), "ArrowRight");
    expect(model.get("layer")).toBe(0);
    press(panels(), "ArrowRight");
    press(panels(), "End");
    expect(model.get("layer")).toBe(2);
    press(panels(), "ArrowRight");
    expect(model.get("layer")).toBe(2);
    press(panels(), "Escape");
    expect(model.get("layer")).toBe(2);
  });

  it("hides a curve by its name in the legend, and asks nothing for it", async () => {
    const { panel, model } = await view();
    const names = () => Array.from(panel("Ratio")?.querySelectorAll("li button") ?? []);
    const button = names()[1] as HTMLButtonElement;
    expect(button.textContent).toBe("MLP");
    button.click();
    expect(model.get("hidden")).toEqual(["mlp_ratio"]);
    await vi.waitFor(() => expect(names()[1]?.getAttribute("aria-pressed")).toBe("false"));
    button.click();
    expect(model.get("hidden")).toEqual([]);
    expect(model.sent.map(({ kind }) => kind)).toEqual(["ready"]);
  });

  it("shows one chart large", async () => {
    const { panel, model } = await view();
    panel("Norm")?.querySelector<HTMLButtonElement>("header button")?.click();
    expect(model.get("focus")).toBe("residual_norm");
    await vi.waitFor(() => expect(panel("Norm")?.classList.contains("ll-large")).toBe(true));
  });

  it("finds metrics by typing, says what each means, and adds one with Enter", async () => {
    const { el, model, press } = await view();
    press(el.querySelector(".ll-panels"), "m");
    await vi.waitFor(() => expect(el.querySelector("[role=listbox]")).not.toBeNull());
    const field = el.querySelector<HTMLInputElement>(".ll-picker input") as HTMLInputElement;
    const options = () => Array.from(el.querySelectorAll("[role=option]"));
    expect(options()).toHaveLength(CATALOGUE.length);
    expect(options().filter((one) => one.getAttribute("aria-selected") === "true")).toHaveLength(5);
    field.value = "codes";
    field.dispatchEvent(new Event("input"));
    await vi.waitFor(() => expect(options()).toHaveLength(1));
    expect(el.querySelector(".ll-details")?.textContent).toContain("This model has no MLP.");
    press(field, "Enter");
    expect(model.get("metrics")).toBeUndefined();
    field.value = "attn";
    field.dispatchEvent(new Event("input"));
    await vi.waitFor(() => expect(el.querySelector(".ll-details")?.textContent).toContain("attn"));
    press(field, "Enter");
    expect(model.get("metrics")).toEqual(["mlp_ratio", "residual_norm", "cka", "induction"]);
    press(field, "Escape");
    await vi.waitFor(() => expect(el.querySelector(".ll-picker")).toBeNull());
  });

  it("measures changed texts together, and the same texts anew only when asked", async () => {
    const { el, model } = await view();
    const run = () =>
      Array.from(el.querySelectorAll("button"))
        .find((b) => b.textContent === "Run")
        ?.click();
    run();
    expect(model.sent.at(-1)).toEqual({ kind: "run" });
    const area = el.querySelector("textarea") as HTMLTextAreaElement;
    area.value = "three";
    area.dispatchEvent(new Event("input"));
    run();
    expect(model.saved.at(-1)).toEqual({ texts: ["three", "two"], text: "" });
    model.push("texts", ["alone"]);
    await vi.waitFor(() => expect(el.querySelectorAll("textarea")).toHaveLength(1));
    const only = el.querySelector("textarea") as HTMLTextAreaElement;
    only.value = "other";
    only.dispatchEvent(new Event("input"));
    run();
    expect(model.saved.at(-1)).toEqual({ texts: ["other"], text: "other" });
  });

  it("moves through the grid by keyboard: layer and head in one, groups beside a matrix", async () => {
    const { el, model, press } = await view({ layer: 1 });
    const grid = el.querySelector("[role=grid]");
    expect(el.querySelector(".ll-groups")?.textContent).toContain("embed – 0");
    press(grid, "ArrowUp");
    expect(model.get("layer")).toBe(2);
    model.push("focus", "induction");
    await vi.waitFor(() => expect(grid?.getAttribute("aria-colcount")).toBe("2"));
    press(grid, "ArrowRight");
    expect(model.get("head")).toBe(1);
    await vi.waitFor(() =>
      expect(el.querySelector(".ll-grids .ll-where")?.textContent).toContain("Layer 2, head 1 0.9"),
    );
  });

  it("counts a corpus in tokens and says how long it still takes", async () => {
    const { el, model } = await view();
    const running = { done: 12_400, total: 24_800, what: "layer 3", seconds: 30, unit: "token" };
    model.push("status", { ...DONE, ...running, state: "running" });
    await vi.waitFor(() =>
      expect(el.querySelector(".ll-progress")?.textContent).toContain("30 s left"),
    );
    expect(el.querySelector(".ll-progress")?.textContent).toContain("12\u2009400 of 24\u2009800");
  });

  it("lays a second model over the first, and takes it off", async () => {
    const meta = makeMetricsMeta({ other: { label: "step 1", model: "toy", n_layers: 2 } });
    meta.arrays.push({
      ...(meta.arrays[1] as (typeof meta.arrays)[number]),
      name: "other.mlp_ratio",
      dims: ["other.layer"],
      other: true,
    });
    const { panel, el, model } = await view({ meta });
    expect(panel("Ratio")?.textContent).toContain("MLP · step 1");
    el.querySelector<HTMLInputElement>(".ll-models input")?.click();
    expect(model.get("overlay")).toBe(false);
    await vi.waitFor(() => expect(panel("Ratio")?.textContent).not.toContain("step 1"));
  });

  it("has all curves in one table for screen readers", async () => {
    const { el } = await view();
    const rows = Array.from(
      el.querySelectorAll(".ll-offscreen table tr"),
      (row) => row.textContent,
    );
    expect(rows.at(1)).toMatch(/^embed/);
    expect(rows).toHaveLength(5);
  });

  it("without a kernel shows all that was measured, and says why the rest is off", async () => {
    const snapshot = pack(makeMetricsMeta(), [makeMetrics()]);
    const state = { view: "metrics", live: false, texts: ["one"], snapshot, meta: {} };
    const model = new FakeModel({ ...state, catalogue: CATALOGUE, layer: 0 });
    const { el } = await shown(model);
    await vi.waitFor(() => expect(el.querySelector(".ll-panels")).not.toBeNull());
    el.querySelector<HTMLButtonElement>(".ll-pick")?.click();
    await vi.waitFor(() => expect(el.querySelector(".ll-details button")).not.toBeNull());
    const add = el.querySelector<HTMLButtonElement>(".ll-details button");
    expect(add?.disabled).toBe(true);
    expect(add?.title).toMatch(/needs a running kernel/);
    expect(el.querySelector("textarea")?.readOnly).toBe(true);
    expect(model.sent).toEqual([]);
  });

  it("among linked views leaves prompt and slider to the lens", async () => {
    const { el } = await view({ linked: true, layer: 1 });
    expect(el.querySelector("textarea")).toBeNull();
    expect(el.querySelector("input[type=range]")).toBeNull();
    expect(el.querySelector(".ll-fed")?.textContent).toContain("tokens");
  });
});
