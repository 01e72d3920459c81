import { beforeEach, describe, expect, it, vi } from "vitest";
import type { Check } from "../src/wire/types";
import { FakeModel, makeAnswer, makeAnswerMeta, makeArray, makeBlocks, pack } from "./fixtures";
import { stubBrowser, widget } from "./page";

const DONE = { state: "done", run: 1, done: 3, total: 3, what: "", message: "", seconds: 1 };

async function page(model: FakeModel) {
  // Grids and curves are drawn by one module.
  const { initialize, render } = await widget("answer");
  const el = document.createElement("div");
  document.body.append(el);
  initialize({ model });
  render({ model, el });
  return el;
}

async function view(over: Record<string, unknown> = {}) {
  const model = new FakeModel({
    view: "grid",
    live: true,
    analysis_name: "some_sweep",
    inputs: { text: "Paris is" },
    input_names: ["text"],
    options: { how: "mean", window: 3 },
    meta: makeAnswerMeta(),
    status: DONE,
    ...over,
  });
  const el = await page(model);
  const { header, buffers } = makeAnswer();
  model.message({ kind: "frame", ...header }, buffers);
  await vi.waitFor(() => expect(el.querySelector(".ll-side")).not.toBeNull());
  const press = (target: Element | null, key: string) =>
    target?.dispatchEvent(new KeyboardEvent("keydown", { key, bubbles: true, composed: true }));
  const button = (name: string) =>
    Array.from(el.querySelectorAll("button")).find(
      (one) => one.textContent === name || one.getAttribute("aria-label") === name,
    );
  const grid = () => el.querySelector("[role=grid]");
  const side = () => el.querySelector(".ll-side")?.textContent ?? "";
  return { el, model, press, button, grid, side };
}

describe("the view of an answer", () => {
  beforeEach(() => {
    stubBrowser();
    document.body.replaceChildren();
  });

  it("counts its checks", async () => {
    const check = { name: "sum", error: 0, limit: 1, ok: true, what: "sums" };
    const counted = async (checks: Check[]) => {
      const { el } = await view({ meta: makeAnswerMeta({ checks }) });
      return el.querySelector(".ll-checks > summary")?.textContent;
    };
    expect(await counted([check])).toBe("✓ 1 check passed");
    expect(await counted([check, check])).toBe("✓ 2 checks passed");
    expect(await counted([{ ...check, ok: false }, check])).toBe("✗ 1 of 2 checks failed");
  });

  it("says in the legend what lies beyond the colours", async () => {
    const caption = async (limit: number | null) => {
      const scales = { effect: { kind: "diverging" as const, centre: 0, limit, unit: "nats" } };
      const { el } = await view({ meta: makeAnswerMeta({ scales }) });
      return el.querySelector(".ll-legend figcaption")?.textContent;
    };
    expect(await caption(null)).toBe("effect (nats)");
    expect(await caption(1)).toBe("effect (nats)");
    expect(await caption(0.6)).toBe("effect (nats); ▲ above 0.6: to 0.9");
    expect(await caption(0.2)).toBe("effect (nats); ▼ below −0.2: to −0.3, ▲ above 0.2: to 0.9");
  });

  it("asks its question, says how it is read and with which options, and what words mean", async () => {
    const { el, model } = await view();
    expect(el.querySelector("h2")?.textContent).toBe("Some sweep");
    expect(el.querySelector(".ll-asked")?.textContent).toBe("Where does the answer come from?");
    const chips = Array.from(el.querySelectorAll(".ll-options-given li"), (li) => li.textContent);
    expect(chips).toEqual(['how = "mean"', "window = 3"]);
    const term = el.querySelector<HTMLElement>(".ll-lead .ll-term");
    expect(term?.textContent).toBe("effect");
    term?.focus();
    await vi.waitFor(() =>
      expect(el.querySelector("[role=tooltip]")?.textContent).toContain("What a change brings."),
    );
    term?.blur();
    await vi.waitFor(() => expect(el.querySelector("[role=tooltip]")).toBeNull());
    const lead = el.querySelector<HTMLDetailsElement>("details.ll-lead") as HTMLDetailsElement;
    expect(lead.open).toBe(true);
    lead.open = false;
    await vi.waitFor(() => expect(model.get("lead_open")).toBe(false));
  });

  it("puts the grid above the curves, or below, as the view is one of grids or of curves", async () => {
    const order = ({ el }: { el: Element }) =>
      Array.from(el.querySelectorAll(".ll-grids, section.ll-panels"), (one) => one.className);
    expect(order(await view())).toEqual(["ll-grids", "ll-panels"]);
    expect(order(await view({ view: "curves" }))).toEqual(["ll-panels", "ll-grids"]);
  });

  it("moves through cells by keyboard, with layer and position in one", async () => {
    const { model, press, grid, side } = await view({ layer: 1, position: 0 });
    press(grid(), "ArrowRight");
    press(grid(), "ArrowUp");
    expect([model.get("layer"), model.get("position")]).toEqual([2, 1]);
    press(grid(), "ArrowDown");
    await vi.waitFor(() => expect(side()).toContain("Layer 1, position 1 ␣Paris 0.9"));
    // what else is known of the cell stands beside it
    expect(side()).toContain("answer␣Paris");
  });

  it("goes to the strongest cell", async () => {
    const { model, button } = await view();
    button("layer 1, position 1 ␣Paris")?.click();
    expect([model.get("layer"), model.get("position")]).toEqual([1, 1]);
  });

  it("opens what a cell is made of with Enter, and closes it with Escape", async () => {
    const { el, model, press, grid } = await view({ layer: 1, position: 1 });
    press(grid(), "Enter");
    const asked = model.sent.at(-1) as Record<string, unknown>;
    expect(asked).toMatchObject({ kind: "request", method: "cell" });
    expect(asked.params).toEqual({ array: "effect", index: [1, 1], dims: ["position", "layer"] });
    await vi.waitFor(() => expect(el.querySelector(".ll-cell")?.textContent).toContain("Asking"));
    const panel = {
      title: "Without head 1",
      code: "ll.x()",
      tables: [{ title: "", head: ["token", "effect"], rows: [[" Rome", 0.25]], opens: [] }],
      texts: [
        {
          tokens: [
            { text: " <b>", mark: 0.5 },
            { text: " is", mark: 0 },
          ],
        },
      ],
    };
    model.message({ kind: "reply", rid: asked.rid, result: panel });
    await vi.waitFor(() =>
      expect(el.querySelector(".ll-cell h4")?.textContent).toBe("Without head 1"),
    );
    const cell = el.querySelector(".ll-cell");
    expect(cell?.querySelector("td")?.textContent).toBe("␣Rome");
    expect(cell?.querySelectorAll(".ll-lit")).toHaveLength(1);
    expect(cell?.querySelector(".ll-lit")?.textContent).toBe("␣<b>");
    press(grid(), "Escape");
    await vi.waitFor(() => expect(el.querySelector(".ll-cell")).toBeNull());
  });

  it("finds by a token, and opens what a row of a table is about", async () => {
    const { el, model } = await view({ meta: makeAnswerMeta({ finds: "heads that write it" }) });
    const field = el.querySelector<HTMLInputElement>(".ll-find input");
    if (field) field.value = "␣Par";
    field?.dispatchEvent(new Event("input", { bubbles: true }));
    const last = () => model.sent.at(-1) as { method: string; rid: string; params: unknown };
    await vi.waitFor(() => expect(last()).toMatchObject({ method: "search" }));
    expect(last().params).toMatchObject({ query: " Par" });
    model.message({ kind: "reply", rid: last().rid, result: [{ id: 7, text: " Paris" }] });
    await vi.waitFor(() => expect(el.querySelector("[role=option]")).not.toBeNull());
    el.querySelector<HTMLElement>("[role=option]")?.click();
    expect(last()).toMatchObject({ method: "cell", params: { find: 7 } });
    const cell = { array: "effect", at: { layer: 2, position: 1 } };
    const tables = [{ title: "", head: ["head", "score"], rows: [["2.1", 9]], opens: [cell] }];
    const panel = { title: "By “ Paris”", code: "", tables, texts: [] };
    model.message({ kind: "reply", rid: last().rid, result: panel });
    await vi.waitFor(() => expect(el.querySelector(".ll-cell td button")).not.toBeNull());
    el.querySelector<HTMLElement>(".ll-cell td button")?.click();
    expect(last()).toMatchObject({ method: "cell", params: cell });
  });

  it("has no field to find by where the analysis finds nothing", async () => {
    const { el } = await view();
    expect(el.querySelector(".ll-find")).toBeNull();
  });

  it("opens a point of a curve with Enter", async () => {
    const { el, model, press } = await view({ view: "panels", layer: 1 });
    const before = model.sent.length;
    press(el.querySelector(".ll-panels"), "Enter");
    await vi.waitFor(() => expect(model.sent.length).toBeGreaterThan(before));
    const asked = model.sent.at(-1) as Record<string, { index?: number[] }>;
    expect(asked).toMatchObject({ kind: "request", method: "cell" });
    expect(asked.params?.index).toContain(1);
  });

  it("says why a cell could not be opened", async () => {
    const { el, model, press, grid } = await view({ layer: 1, position: 1 });
    press(grid(), "Enter");
    const { rid } = model.sent.at(-1) as { rid: string };
    model.message({ kind: "error", rid, message: "It is gone." });
    await vi.waitFor(() =>
      expect(el.querySelector(".ll-cell [role=alert]")?.textContent).toBe("It is gone."),
    );
  });

  it("draws means at the ends when asked", async () => {
    const { model, button, grid } = await view();
    expect(grid()?.getAttribute("aria-colcount")).toBe("3");
    button("Means")?.click();
    expect(model.get("means")).toBe(true);
    await vi.waitFor(() => expect(grid()?.getAttribute("aria-colcount")).toBe("4"));
  });

  it("waits with what a run would take, and begins it", async () => {
    const words = "About 40 s: 312 passes.";
    const waiting = { ...DONE, state: "waiting", message: words };
    const model = new FakeModel({ view: "grid", live: true, status: waiting, meta: {} });
    const el = await page(model);
    expect(el.querySelector(".ll-cost")?.textContent).toContain(words);
    expect(el.querySelector(".ll-waiting")).toBeNull();
    el.querySelector<HTMLButtonElement>(".ll-cost button")?.click();
    expect(model.sent.at(-1)).toEqual({ kind: "run" });
  });

  it("asks again with changed texts, each by its name, and anew for the same", async () => {
    const inputs = { clean: "a", corrupt: "b" };
    const { el, model, button } = await view({ inputs, input_names: ["clean", "corrupt"] });
    const fields = el.querySelectorAll("textarea");
    expect(fields).toHaveLength(2);
    button("Run")?.click();
    expect(model.sent.at(-1)).toEqual({ kind: "run" });
    const second = fields[1] as HTMLTextAreaElement;
    second.value = "c";
    second.dispatchEvent(new Event("input"));
    button("Run")?.click();
    expect(model.get("inputs")).toEqual({ clean: "a", corrupt: "c" });
  });

  it("draws curves over an axis of their own, each in a chart where that is asked", async () => {
    const { el, button } = await view();
    const charts = () =>
      Array.from(el.querySelectorAll("section.ll-panel h3"), (one) => one.textContent);
    expect(charts()).toEqual(["Found", "Single numbers"]);
    button("Draw Found in a chart each")?.click();
    await vi.waitFor(() => expect(charts()).toEqual(["Found", "Random found", "Single numbers"]));
    const rows = el.querySelectorAll(".ll-figures table tbody tr");
    expect(Array.from(rows, (row) => row.textContent)).toEqual([
      "00.1–",
      "10.21",
      "20.42",
      "30.83",
    ]);
  });

  it("picks the entry of an axis that is dosed", async () => {
    const { el, model } = await view({ focus: "dosed" });
    const slider = el.querySelector<HTMLInputElement>("input[aria-label=dose]");
    expect(slider?.max).toBe("1");
    if (slider) slider.value = "1";
    slider?.dispatchEvent(new Event("input"));
    expect(model.get("entry")).toBe(1);
  });

  it("lets the curve stand out that a dose has chosen", async () => {
    const lines = {
      dims: ["layer", "dose"],
      kind: "lines" as const,
      across: "layer",
      down: "dose",
    };
    const arrays = [...makeAnswerMeta().arrays, makeArray("steered", lines)];
    const meta = makeAnswerMeta({ arrays });
    const { el, model } = await view({ view: "curves", meta });
    const values = [1, 2, 3, 4, 5, 6];
    const more = makeBlocks(2, [["steered", lines.dims, [0, 0], [3, 2], values]]);
    model.message({ kind: "frame", ...more.header }, more.buffers);
    const strong = () => el.querySelector(".ll-strong")?.textContent;
    await vi.waitFor(() => expect(el.querySelector("[aria-label=Steered]")).not.toBeNull());
    expect(strong()).toBeUndefined();
    const slider = el.querySelector<HTMLInputElement>("input[aria-label=dose]");
    if (slider) slider.value = "1";
    slider?.dispatchEvent(new Event("input"));
    await vi.waitFor(() => expect(strong()).toBe("dose 0.5"));
  });

  it("without a kernel shows all of it, and offers nothing that needs one", async () => {
    const snapshot = pack(makeAnswerMeta(), [makeAnswer()]);
    const frozen = {
      view: "grid",
      live: false,
      snapshot,
      meta: {},
      inputs: { text: "x" },
      layer: 0,
    };
    const el = await page(new FakeModel({ ...frozen, position: 0, input_names: ["text"] }));
    await vi.waitFor(() => expect(el.querySelector(".ll-side")).not.toBeNull());
    expect(el.querySelector<HTMLTextAreaElement>("textarea")?.readOnly).toBe(true);
    expect(el.querySelector("input[aria-label=window]")).toBeNull();
    const enter = new KeyboardEvent("keydown", { key: "Enter", bubbles: true });
    el.querySelector("[role=grid]")?.dispatchEvent(enter);
    expect(el.querySelector(".ll-cell")).toBeNull();
    expect(el.querySelector(".ll-layer-table")?.textContent).toContain("all1");
  });

  it("opens what a row of a table is about, where a kernel can be asked", async () => {
    const { el, model } = await view({ meta: makeAnswerMeta({ opens: "cell" }) });
    await vi.waitFor(() => expect(el.querySelector(".ll-layer-table button")).not.toBeNull());
    el.querySelector<HTMLButtonElement>(".ll-layer-table tr:nth-child(2) button")?.click();
    await vi.waitFor(() =>
      expect(JSON.stringify(model.sent)).toContain('"array":"usage","index":[1]'),
    );
  });

  it("without texts asks by its question alone", async () => {
    const { el } = await view({ inputs: {}, input_names: [] });
    expect(el.querySelector("textarea")).toBeNull();
    expect(el.querySelector(".ll-prompt-line .ll-asked")?.textContent).toMatch(/^Where/);
  });

  it("is what a page opens for grids, curves and panels", async () => {
    // uPlot looks at the browser when it is loaded.
    const { openView } = await import("../src/views/all");
    for (const view of ["grid", "curves", "panels"]) {
      const opened = openView(new FakeModel({ view, live: false, kept: "ll-kept" }));
      expect([view, opened.kept]).toEqual([view, "ll-kept"]);
      opened.dispose();
    }
  });
});
