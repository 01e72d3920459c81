import { afterEach, beforeEach, describe, expect, it, vi } from "vitest";
import { tokenName } from "../src/marks/text";
import { amount } from "../src/views/common/Footer";
import { takeName } from "../src/views/common/names";
import { FakeModel, makeMeta, makePatchMeta, makeSweep } from "./fixtures";
import { shown, stubBrowser } from "./page";

const status = (over: object) => ({
  state: "running" as const,
  run: 1,
  done: 10,
  total: 40,
  what: "",
  message: "",
  seconds: 10,
  ...over,
});

describe("how far a run is", () => {
  it("is said with the time left where that is worth a word", () => {
    expect(amount(status({}))).toBe("10 of 40 steps, about 30 s left");
    expect(amount(status({ seconds: 0.2 }))).toBe("10 of 40 steps");
    expect(amount(status({ done: 0 }))).toBe("0 of 40 steps");
    expect(amount(status({ seconds: 60, unit: "token" }))).toBe(
      "10 of 40 tokens, about 3 min left",
    );
  });
});

describe("the name of a view", () => {
  it("is no other view's of the page, and free again when the view is gone", () => {
    const [first, second] = [takeName("Lens"), takeName("Lens")];
    expect([first.own, second.own, takeName("Grid").own]).toEqual(["Lens", "Lens 2", "Grid"]);
    first.giveBack();
    expect([takeName("Lens").own, takeName("Lens").own]).toEqual(["Lens", "Lens 3"]);
  });
});

describe("a token that only goes on", () => {
  beforeEach(() => {
    stubBrowser();
    document.body.replaceChildren();
  });

  it("is never called empty", async () => {
    const goesOn = { id: 5, text: "", cont: true };
    expect(tokenName(goesOn)).toBe("⋯ (goes on)");
    const tokens = [{ id: 4, text: "日", cont: false }, goesOn];
    const model = new FakeModel({ view: "lens", live: true, meta: makeMeta({ tokens }) });
    const { el } = await shown(model);
    await vi.waitFor(() => expect(el.querySelector(".ll-table")).not.toBeNull());
    expect(el.textContent).not.toContain("(empty)");
  });
});

describe("the box beside the pointer in the bench", () => {
  beforeEach(() => {
    stubBrowser();
    document.body.replaceChildren();
  });

  it("says what goes where while a value is on its way, and is gone after", async () => {
    const model = new FakeModel({ view: "patch", live: true, meta: makePatchMeta() });
    const { el } = await shown(model);
    const { header, buffers } = makeSweep();
    model.message({ kind: "frame", ...header }, buffers);
    const grid = el.querySelector<HTMLElement>("[role=grid]") as HTMLElement;
    const at = (type: string, column: number, layer: number) => {
      const event = new MouseEvent(type, {
        bubbles: true,
        clientX: 76 + 56 * column + 20,
        clientY: 53 + 22 * (2 - layer) + 10,
      });
      grid.dispatchEvent(event);
    };
    const tip = () => el.querySelector(".ll-tip")?.textContent;
    at("pointermove", 1, 0);
    await vi.waitFor(() => expect(tip()).toContain("recovered"));
    at("pointerdown", 1, 0);
    at("pointermove", 2, 1);
    await vi.waitFor(() => expect(tip()).toMatch(/layer 0 · ␣of.*→ layer 1/));
    expect(tip()).not.toContain("recovered");
    at("pointerup", 2, 1);
    await vi.waitFor(() => expect(tip()).toBeUndefined());
    expect(model.get("edits")).toHaveLength(1);
  });
});

describe("a grid wider than its room", () => {
  const sizes = { offsetWidth: 944, clientWidth: 932, clientLeft: 1, clientHeight: 500 };

  beforeEach(() => {
    stubBrowser();
    document.body.replaceChildren();
    for (const [name, value] of Object.entries(sizes)) {
      vi.spyOn(HTMLElement.prototype, name as "offsetWidth", "get").mockImplementation(function (
        this: HTMLElement,
      ) {
        return this.classList.contains("ll-table") ? value : 0;
      });
    }
  });

  afterEach(() => vi.restoreAllMocks());

  async function sizer(count: number) {
    const tokens = Array.from({ length: count }, (_, id) => ({ id, text: "x", cont: false }));
    const model = new FakeModel({ view: "lens", live: true, meta: makeMeta({ tokens }) });
    const { el } = await shown(model);
    return el.querySelector<HTMLElement>(".ll-sizer");
  }

  it("has as much room behind it as the gutter, so that its last column can be reached", async () => {
    const wide = await sizer(40);
    await vi.waitFor(() => expect(wide?.style.width).toBe(`${76 + 40 * 72 + 10}px`));
    const narrow = await sizer(4);
    await vi.waitFor(() => expect(narrow?.style.width).toBe(`${76 + 4 * 72}px`));
  });
});

describe("a button whose label is a word of art", () => {
  beforeEach(() => {
    stubBrowser();
    document.body.replaceChildren();
  });

  it("says what it means and what it does, and only where that is known", async () => {
    const meta = makeMeta({ terms: { KL: "A divergence." }, lead: "Rows are layers." });
    const { el } = await shown(new FakeModel({ view: "lens", live: true, meta }));
    await vi.waitFor(() => expect(el.querySelector(".ll-toolbar")).not.toBeNull());
    expect(el.querySelector(".ll-lead")?.textContent).toBe("Rows are layers.");
    const button = (label: string) =>
      Array.from(el.querySelectorAll("button")).find((one) => one.textContent === label);
    button("KL")?.focus();
    await vi.waitFor(() => expect(el.querySelector("[role=tooltip]")).not.toBeNull());
    const said = el.querySelector("[role=tooltip]")?.textContent;
    expect(said).toBe("KL A divergence.Divergence of the row from the final row, in nats");
    expect([button("KL")?.title, button("Rank")?.title.slice(0, 4)]).toEqual(["", "Rank"]);
    button("KL")?.blur();
    await vi.waitFor(() => expect(el.querySelector("[role=tooltip]")).toBeNull());
  });
});
