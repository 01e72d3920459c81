import { signal } from "@preact/signals";
import { beforeEach, describe, expect, it, vi } from "vitest";
import {
  FakeModel,
  makeEstimate,
  makeMeta,
  makePatchMeta,
  makeRow,
  makeSweep,
  pack,
} from "./fixtures";
import { shown, stubBrowser } from "./page";

const EVIL = "<img src=x onerror=alert(1)>";

const TOLD = {
  tokens: [
    { id: 7, text: " Paris", before: 0.01, after: 0.6 },
    { id: 8, text: EVIL, before: 0.7, after: 0.1 },
  ],
  metric: { before: -2, after: 2.5, recovered: 0.75 },
  code: "ll.run(model, text, edits=[...])",
};

async function bench(over: Record<string, unknown> = {}) {
  const model = new FakeModel({
    view: "patch",
    live: true,
    clean: "of France is",
    corrupt: "of Italy is",
    meta: makePatchMeta(),
    layer: 1,
    position: 2,
    ...over,
  });
  const page = await shown(model);
  // Drafts follow their traits from the first frame on.
  await new Promise((resolve) => setTimeout(resolve, 50));
  const { header, buffers } = makeSweep();
  model.message({ kind: "frame", ...header }, buffers);
  const grid = page.el.querySelector<HTMLElement>("[role=grid]") as HTMLElement;
  const press = (key: string, init: KeyboardEventInit = {}, on: HTMLElement = grid) =>
    on.dispatchEvent(
      new KeyboardEvent("keydown", {
        key,
        bubbles: true,
        composed: true,
        cancelable: true,
        ...init,
      }),
    );
  const asked = (method: string) => model.sent.filter((m) => m.method === method);
  const answer = (result: unknown = TOLD) =>
    model.message({ kind: "reply", rid: asked("distribution").at(-1)?.rid, result });
  const button = (name: RegExp) =>
    Array.from(page.el.querySelectorAll("button")).find((b) =>
      name.test(b.getAttribute("aria-label") ?? b.textContent ?? ""),
    ) as HTMLButtonElement;
  return { model, ...page, grid, press, asked, answer, button };
}

const OWN = { site: "resid_pre", layer: 1, position: 2, head: null, on: true };
const OWN_EDIT = { ...OWN, from: { layer: 1, position: 2 } };

describe("the patch bench", () => {
  beforeEach(() => {
    stubBrowser();
    document.body.replaceChildren();
  });

  it("shows both prompts token under token, with what differs marked in words too", async () => {
    const { el } = await bench();
    const prompts = Array.from(el.querySelectorAll("textarea"), (area) => area.value);
    expect(prompts).toEqual(["of France is", "of Italy is"]);
    const couples = Array.from(el.querySelectorAll(".ll-couple"), (chip) => chip.textContent);
    expect(couples).toEqual(["<s><s>", "␣of␣of", "␣France␣Italydiffers", "␣is␣is"]);
    expect(el.textContent).toContain("4 tokens, 1 differs");
    expect(el.textContent).toContain("clean into corrupted");
  });

  it("reads out the selected cell, and moves with the arrow keys without a question", async () => {
    const { el, grid, press, model } = await bench();
    const active = () => el.querySelector(`[id="${grid.getAttribute("aria-activedescendant")}"]`);
    await vi.waitFor(() => expect(active()?.textContent).toBe("␣France|␣Italy: recovered 0.30"));
    press("ArrowUp");
    expect(model.get("layer")).toBe(2);
    await vi.waitFor(() => expect(active()?.textContent).toContain("0.40"));
    expect(model.sent.map((m) => m.kind)).toEqual(["ready"]);
  });

  it("marks in words and in the grid what a stopped sweep only estimated", async () => {
    const snapshot = pack(makePatchMeta(), makeEstimate(1));
    const status = { state: "cancelled", run: 1, done: 4, total: 12, what: "cells", message: "" };
    const model = new FakeModel({ view: "patch", meta: makePatchMeta(), snapshot, status });
    model.set("layer", 1);
    model.set("position", 2);
    const { el } = await shown(model);
    await vi.waitFor(() => expect(el.textContent).toContain("8 cells are estimates"));
    const cells = Array.from(el.querySelectorAll("[role=gridcell]"), (cell) => cell.textContent);
    expect(cells).toContain("␣France|␣Italy: recovered about 0.30, an estimate");
    expect(cells).toContain("␣France|␣Italy: recovered 0.10");
    expect(el.querySelector(".ll-numbers")?.textContent).toContain("≈0.30 estimate");
  });

  it("runs the patch of a cell with Enter and writes model text as text", async () => {
    const { el, press, asked, answer } = await bench();
    press("Enter");
    expect(asked("distribution")[0]?.params).toEqual({ edits: [OWN_EDIT] });
    answer();
    await vi.waitFor(() => expect(el.querySelector(".ll-changes")).not.toBeNull());
    expect(el.querySelector(".ll-changes")?.textContent).toContain("+59.00");
    expect(el.textContent).toContain(EVIL);
    expect(el.querySelector("img")).toBeNull();
    expect(el.querySelector("pre")?.textContent).toBe(TOLD.code);
  });

  it("asks once about the same patch, and takes back a question that is out of date", async () => {
    const { press, asked, model } = await bench();
    press("Enter");
    press("Escape");
    const first = asked("distribution")[0]?.rid;
    press("ArrowUp");
    expect(model.sent.at(-1)).toEqual({ kind: "cancel_request", rid: first });
    press("ArrowDown");
    press("Enter");
    expect(asked("distribution")).toHaveLength(2);
  });

  it("patches across with Enter, arrows, Enter, and remembers the run", async () => {
    const { el, press, answer, model } = await bench();
    press("Enter");
    await vi.waitFor(() => expect(el.querySelector(".ll-hint")?.textContent).toMatch(/Source/));
    press("ArrowUp");
    press("ArrowRight");
    press("Enter");
    const edit = { ...OWN, layer: 2, position: 3, from: { layer: 1, position: 2 } };
    expect(model.get("edits")).toEqual([edit]);
    answer();
    await vi.waitFor(() =>
      expect(model.get("history")).toEqual([
        { edits: [edit], metric: 2.5, recovered: 0.75, top: [7, " Paris", 0.6] },
      ]),
    );
    await vi.waitFor(() => expect(el.querySelector(".ll-run-item")?.textContent).toContain("0.75"));
  });

  it("undoes and redoes in the view, but leaves these keys to the text in a prompt", async () => {
    const { el, press, model } = await bench();
    press("a");
    expect(model.get("edits")).toEqual([OWN_EDIT]);
    press("z", { ctrlKey: true });
    expect(model.get("edits")).toEqual([]);
    press("Z", { ctrlKey: true, shiftKey: true });
    expect(model.get("edits")).toHaveLength(1);
    const area = el.querySelector("textarea") as HTMLElement;
    press("z", { ctrlKey: true }, area);
    expect(model.get("edits")).toHaveLength(1);
  });

  it("keeps undo from the notebook, and Ctrl+S for it", async () => {
    const { grid, press } = await bench();
    press("z", { ctrlKey: true });
    expect(grid.dataset.lmSuppressShortcuts).toBe("true");
    press("s", { ctrlKey: true });
    expect(grid.dataset.lmSuppressShortcuts).toBeUndefined();
  });

  it("draws the source, the target and the reach of a patch of the list", async () => {
    const { Session } = await import("../src/wire/session");
    const { PATCH } = await import("../src/wire/patch");
    const { PatchState } = await import("../src/views/patch/state");
    const edits = [{ ...OWN_EDIT, from: { layer: 0, position: 3 } }];
    const model = new FakeModel({ meta: makePatchMeta(), layer: 1, position: 2, edits });
    const state = new PatchState(new Session(model, PATCH), signal(false));
    const here = { point: 1, position: 2 };
    expect(state.marks.value).toEqual({
      source: here,
      target: here,
      reach: { fromPoint: 2, fromPosition: 2 },
      listed: [{ cell: here, label: "1", on: true }],
    });
    state.shown.value = "list";
    expect(state.marks.value.source).toEqual({ point: 0, position: 3 });
    state.gesture({ type: "pick", cell: { point: 2, position: 0 } });
    expect(state.marks.value.source).toEqual({ point: 2, position: 0 });
    expect(state.marks.value.target).toEqual(here);
  });

  it("switches patches off and on, removes them, and goes back to a run", async () => {
    const edits = [OWN_EDIT, { ...OWN_EDIT, layer: 0 }];
    const history = [{ edits: [OWN_EDIT], metric: 1, recovered: 0.5, top: [7, " Paris", 0.4] }];
    const { el, model, button } = await bench({ edits, history });
    el.querySelector<HTMLInputElement>(".ll-list input")?.click();
    expect(model.get("edits")).toEqual([{ ...OWN_EDIT, on: false }, edits[1]]);
    button(/Remove patch 2/).click();
    expect(model.get("edits")).toEqual([{ ...OWN_EDIT, on: false }]);
    el.querySelector<HTMLButtonElement>(".ll-run-item")?.click();
    expect(model.get("edits")).toEqual([OWN_EDIT]);
  });

  it("takes heads in place only", async () => {
    const meta = makePatchMeta({ by: "head", site: "z", columns: ["0", "1"] });
    const { el, press, model } = await bench({ meta, by: "head", site: "z", head: 0 });
    press("Enter");
    press("ArrowRight");
    press("Enter");
    expect(model.get("edits")).toBeUndefined();
    await vi.waitFor(() => expect(el.textContent).toContain("from the same head"));
    press("a");
    expect(model.get("edits")).toEqual([
      {
        site: "z",
        layer: 1,
        position: null,
        head: 1,
        from: { layer: 1, position: null },
        on: true,
      },
    ]);
  });

  it("changes site and direction as traits, and refuses sites that the model has not", async () => {
    const { model, button } = await bench();
    button(/^attn out$/).click();
    expect(model.saved.at(-1)).toEqual({ site: "attn_out", by: "position" });
    button(/^z$/).click();
    expect(model.saved.at(-1)).toEqual({ site: "z", by: "head" });
    button(/^Noise$/).click();
    expect(model.saved.at(-1)).toEqual({ direction: "noise" });
    expect(button(/^MLP out$/).disabled).toBe(true);
    expect(button(/^MLP out$/).title).toMatch(/has no MLP out/);
  });

  it("runs both prompts in one update", async () => {
    const { el, model } = await bench();
    const [, corrupt] = el.querySelectorAll("textarea");
    if (!corrupt) throw new Error("no prompt");
    corrupt.value = "of Spain is";
    corrupt.dispatchEvent(new Event("input", { bubbles: true }));
    await vi.waitFor(() => expect(el.querySelector(".ll-run.ll-primary")).not.toBeNull());
    corrupt.dispatchEvent(new KeyboardEvent("keydown", { key: "Enter", bubbles: true }));
    expect(model.saved).toEqual([{ corrupt: "of Spain is" }]);
    el.querySelector<HTMLButtonElement>(".ll-run")?.click();
    await vi.waitFor(() => expect(model.sent.at(-1)).toMatchObject({ kind: "run" }));
  });

  it("shows progress with a way to cancel, and says what a run stumbled over", async () => {
    const status = { state: "running", run: 1, done: 3, total: 9, what: "" };
    const { el, model, button } = await bench({ status });
    expect(el.textContent).toContain("3 of 9 steps");
    button(/^Cancel$/).click();
    expect(model.sent.at(-1)).toEqual({ kind: "cancel", run: 1 });
    model.push("status", { ...status, state: "error", message: "The prompts differ in length." });
    await vi.waitFor(() =>
      expect(el.querySelector("[role=alert]")?.textContent).toBe("The prompts differ in length."),
    );
  });

  it("shows the lens of both runs and their difference", async () => {
    const { el, press, asked, model, button } = await bench();
    press("Enter");
    await vi.waitFor(() => expect(button(/^Compute$/).disabled).toBe(false));
    button(/^Compute$/).click();
    await vi.waitFor(() => expect(asked("lens")).toHaveLength(1));
    expect(asked("lens")[0]?.params).toEqual({ edits: [OWN_EDIT] });
    const rows = [0, 1, 2].map((row) => makeRow(row));
    const buffers = [0, 1].map(() => {
      const bytes = pack(makeMeta(), rows);
      return new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
    });
    model.message({ kind: "reply", rid: asked("lens")[0]?.rid, result: {} }, buffers);
    await vi.waitFor(() => expect(el.querySelectorAll("[role=grid]")).toHaveLength(2));
    expect(button(/^Difference$/).getAttribute("aria-pressed")).toBe("true");
    button(/^Before$/).click();
    await vi.waitFor(() => expect(button(/^Before$/).getAttribute("aria-pressed")).toBe("true"));
  });

  it("without a kernel still shows the grid and the cone, and says why the rest is off", async () => {
    const snapshot = pack(makePatchMeta(), [makeSweep()]);
    const model = new FakeModel({ view: "patch", live: false, snapshot, layer: 1, position: 2 });
    const { el } = await shown(model);
    await vi.waitFor(() => expect(el.querySelector("[role=grid]")).not.toBeNull());
    el.querySelector("[role=grid]")?.dispatchEvent(new KeyboardEvent("keydown", { key: "Enter" }));
    await vi.waitFor(() =>
      expect(el.querySelector(".ll-side")?.textContent).toMatch(/needs a running kernel/),
    );
    expect(el.querySelector(".ll-mark-affected")).not.toBeNull();
    const run = el.querySelector<HTMLButtonElement>(".ll-run");
    expect(run?.disabled).toBe(true);
    expect(run?.title).toMatch(/needs a kernel/);
    expect(model.sent).toEqual([]);
  });

  it("follows a linked layer without a run and without answering", async () => {
    const { model, press, asked, el } = await bench();
    press("Enter");
    await vi.waitFor(() => expect(asked("distribution")).toHaveLength(1));
    const saved = model.saved.length;
    model.push("layer", 2);
    await vi.waitFor(() => expect(el.querySelector(".ll-where")?.textContent).toContain("layer 2"));
    model.push("layer", 30);
    await vi.waitFor(() => expect(el.querySelector(".ll-side")?.textContent).toContain("Press a"));
    expect(asked("distribution")).toHaveLength(1);
    expect(model.saved.length).toBe(saved);
  });

  it("names the metric once, and one of the user's own as it names itself", async () => {
    const { el } = await bench();
    expect(el.querySelector(".ll-facts-text")?.textContent).toContain(
      "logit difference ␣Paris − ␣Rome: corrupted",
    );
    const own = { name: "mine", long_name: "my metric", units: "1", clean: 1, corrupt: 0 };
    const other = await bench({ meta: makePatchMeta({ metric: own }) });
    expect(other.el.querySelector(".ll-facts-text")?.textContent).toContain("my metric: corrupted");
  });

  it("stands beside a lens in one page", async () => {
    const { el } = await bench();
    const lens = await shown(new FakeModel({ view: "lens", live: true, text: "hi" }));
    expect(lens.el.querySelector("textarea")?.value).toBe("hi");
    expect(el.querySelector("h2")?.textContent).toBe("Activation patching");
  });
});
