import { beforeEach, describe, expect, it, vi } from "vitest";
import { FakeModel, makeMeta, makeRow, pack } from "./fixtures";
import { shown, stubBrowser, widget } from "./page";

const EVIL = "<img src=x onerror=alert(1)>";

function running(over: Record<string, unknown> = {}) {
  const meta = makeMeta({
    tokens: [
      { id: 1, text: EVIL, cont: false },
      { id: 2, text: " Paris", cont: false },
    ],
    points: ["embed", "0_post", "final"],
  });
  return new FakeModel({ live: true, text: "hi", meta, pins: [], options: {}, ...over });
}

describe("the lens view", () => {
  beforeEach(() => {
    stubBrowser();
    document.body.replaceChildren();
  });

  it("shows the prompt and waits before anything has come", async () => {
    const { el } = await shown(new FakeModel({ live: true, text: "The capital" }));
    expect(el.querySelector("textarea")?.value).toBe("The capital");
    expect(el.textContent).toContain("Waiting for the kernel");
  });

  it("writes token text as text", async () => {
    const model = running();
    const { el } = await shown(model);
    const { header, buffers } = makeRow(0, 1, { vocab: { 0: EVIL } });
    model.message({ kind: "frame", ...header }, buffers);
    await vi.waitFor(() => expect(el.textContent).toContain(EVIL));
    expect(el.querySelector("img")).toBeNull();
  });

  it("fills as rows come and reads out the selected cell", async () => {
    const model = running({ row: 0, position: 1 });
    const { el } = await shown(model);
    const grid = el.querySelector("[role=grid]");
    expect(grid?.getAttribute("aria-rowcount")).toBe("3");
    await vi.waitFor(() => expect(el.textContent).toContain("not been computed yet"));
    const { header, buffers } = makeRow(0);
    model.message({ kind: "frame", ...header }, buffers);
    await vi.waitFor(() => {
      const id = grid?.getAttribute("aria-activedescendant") ?? "none";
      expect(el.querySelector(`[id="${id}"]`)?.textContent).toContain("50.00%");
    });
  });

  it("moves with the arrow keys, pins with p, and sends no question for it", async () => {
    const model = running({ row: 0, position: 0 });
    const { el } = await shown(model);
    const { header, buffers } = makeRow(0);
    model.message({ kind: "frame", ...header }, buffers);
    const grid = el.querySelector<HTMLElement>("[role=grid]");
    const press = (key: string) =>
      grid?.dispatchEvent(new KeyboardEvent("keydown", { key, bubbles: true, composed: true }));
    press("ArrowRight");
    expect(model.get("position")).toBe(1);
    press("p");
    expect(model.get("pins")).toEqual([{ position: 1, id: 0 }]);
    press("p");
    expect(model.get("pins")).toEqual([]);
    expect(model.sent.map((m) => m.kind)).toEqual(["ready"]);
  });

  it("follows a linked layer without answering; what is no row goes to the nearest", async () => {
    const model = running({ row: 0, position: 0 });
    const { el } = await shown(model);
    const { header, buffers } = makeRow(0);
    model.message({ kind: "frame", ...header }, buffers);
    const grid = el.querySelector("[role=grid]");
    const row = () => grid?.getAttribute("aria-activedescendant")?.split("-").at(-2);
    const saved = model.saved.length;
    for (const [layer, point] of [
      [0, "1"],
      [9, "2"],
      [-1, "0"],
    ] as const) {
      model.push("layer", layer);
      await vi.waitFor(() => expect(row()).toBe(point));
    }
    expect(model.saved.length).toBe(saved);
  });

  it("keeps the notebook's shortcuts away, but not Ctrl", async () => {
    const { el, unmount } = await shown(running());
    const grid = el.querySelector<HTMLElement>("[role=grid]") as HTMLElement;
    const press = (init: KeyboardEventInit) =>
      grid.dispatchEvent(new KeyboardEvent("keydown", { bubbles: true, composed: true, ...init }));
    press({ key: "x" });
    expect(grid.dataset.lmSuppressShortcuts).toBe("true");
    press({ key: "s", ctrlKey: true });
    expect(grid.dataset.lmSuppressShortcuts).toBeUndefined();
    unmount();
    press({ key: "x" });
    expect(grid.dataset.lmSuppressShortcuts).toBeUndefined();
  });

  it("asks for a full line only when a pin has gaps and the run is over", async () => {
    const model = running({ pins: [{ position: 0, id: 99 }] });
    await shown(model);
    for (const row of [0, 1, 2]) {
      const { header, buffers } = makeRow(row);
      model.message({ kind: "frame", ...header }, buffers);
    }
    await vi.waitFor(() => {
      const asked = model.sent.filter((m) => m.method === "track");
      expect(asked).toHaveLength(1);
      expect(asked[0]?.params).toEqual({ position: 0, id: 99 });
    });
  });

  it("without a kernel disables what needs one and says why", async () => {
    const snapshot = pack(
      makeMeta(),
      [0, 1, 2].map((row) => makeRow(row)),
    );
    const model = new FakeModel({ live: false, text: "hi", snapshot, meta: {} });
    const { el } = await shown(model);
    await vi.waitFor(() => expect(el.querySelector("[role=grid]")).not.toBeNull());
    const run = Array.from(el.querySelectorAll("button")).find((b) => b.textContent === "Run");
    expect(run?.disabled).toBe(true);
    expect(run?.title).toMatch(/needs a kernel/);
    expect(el.querySelector<HTMLInputElement>(".ll-search input")?.disabled).toBe(true);
    expect(el.querySelector<HTMLInputElement>(".ll-slider input")?.disabled).toBe(false);
    expect(model.sent).toEqual([]);
  });

  it("shows errors as an alert and progress as a status", async () => {
    const status = { state: "error", message: "The prompt is empty.", done: 0, total: 0 };
    const model = running({ status });
    const { el } = await shown(model);
    expect(el.querySelector("[role=alert]")?.textContent).toBe("The prompt is empty.");
    model.push("status", { state: "running", done: 3, total: 9, what: "rows" });
    await vi.waitFor(() => expect(el.textContent).toContain("3 of 9 steps"));
    expect(el.querySelector("[role=alert]")).toBeNull();
  });

  it("works twice on one model, in a shadow root too, and leaves nothing behind", async () => {
    const model = running();
    const { initialize, render } = await widget();
    const dispose = initialize({ model });
    const host = document.createElement("div");
    document.body.append(host);
    const els = [document.createElement("div"), document.createElement("div")] as const;
    document.body.append(els[0]);
    host.attachShadow({ mode: "open" }).append(els[1]);
    const unmounts = els.map((el) => render({ model, el }));
    const { header, buffers } = makeRow(0);
    model.message({ kind: "frame", ...header }, buffers);
    for (const el of els) {
      await vi.waitFor(() => expect(el.querySelector("[role=grid]")).not.toBeNull());
    }
    expect(model.sent.filter((m) => m.kind === "ready")).toHaveLength(1);
    for (const unmount of unmounts) unmount();
    for (const el of els) expect(el.childElementCount).toBe(0);
    dispose();
    expect(model.listening).toBe(0);
  });
});

describe("the picture that stays in a notebook", () => {
  beforeEach(() => {
    stubBrowser();
    document.body.replaceChildren();
  });

  it("is hidden while the view is there, however late it comes", async () => {
    const { unmount } = await shown(new FakeModel({ live: true, text: "hi", kept: "ll-kept-1" }));
    const [picture, other] = ["ll-kept-1", "ll-kept-2"].map((name) => {
      const element = document.createElement("div");
      element.className = name;
      document.body.append(element);
      return element;
    });
    const display = (element?: HTMLElement) => element && getComputedStyle(element).display;
    expect(display(picture)).toBe("none");
    expect(display(other)).toBe("block");
    unmount();
    expect(display(picture)).toBe("block");
  });
});
