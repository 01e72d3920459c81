import { beforeEach, describe, expect, it, vi } from "vitest";
import { makeAttentionMeta, makePart, makeSlice, packedSlice } from "./attention.fixtures";
import { FakeModel, makeBlocks, pack } from "./fixtures";
import { shown, stubBrowser } from "./page";

const EVIL = "<img src=x onerror=alert(1)>";
const END = makeBlocks(
  1,
  [["previous_token", ["layer", "head"], [0, 0], [2, 4], PREVIOUS()]],
  true,
);

function PREVIOUS(): number[] {
  return [0, 0, 0.25, 0, 0, 0, 0.93, 0];
}

function running(over: Record<string, unknown> = {}, meta = makeAttentionMeta()) {
  return new FakeModel({
    live: true,
    view: "attention",
    text: "<s> a cat a",
    options: {},
    layer: 1,
    head: 2,
    meta,
    ...over,
  });
}

function frozen(over: Record<string, unknown> = {}, meta = {}) {
  const slices = { "0/self/pattern/0": packedSlice(), "1/self/pattern/0": packedSlice() };
  const snapshot = pack({ ...makeAttentionMeta(), ...{ slices }, ...meta }, [END]);
  return running({ live: false, meta: {}, snapshot, ...over });
}

type Asked = { rid: string; method: string; params: Record<string, unknown> };

function asked(model: FakeModel, method: string): Asked[] {
  return model.sent.filter((m) => m.method === method) as unknown as Asked[];
}

function answer(model: FakeModel, { rid }: Asked, slice = makeSlice()) {
  const buffer = new DataView(slice.bytes.buffer);
  model.message({ kind: "reply", rid, result: slice.header }, [buffer]);
}

function head(el: HTMLElement, number: number): HTMLButtonElement {
  return el.querySelector(`[data-head="${number}"]`) as HTMLButtonElement;
}

function button(el: HTMLElement, name: string): HTMLButtonElement {
  return Array.from(el.querySelectorAll("button")).find(
    (one) => one.textContent === name,
  ) as HTMLButtonElement;
}

describe("the view of attention", () => {
  beforeEach(() => {
    stubBrowser();
    document.body.replaceChildren();
  });

  it("asks for the layer that is shown first, then for its neighbours, once each", async () => {
    const model = running();
    const { el } = await shown(model);
    await vi.waitFor(() => expect(asked(model, "slice")).toHaveLength(2));
    const [first, second] = asked(model, "slice") as [Asked, Asked];
    expect(first.params).toEqual({ layer: 1, part: "self", weighting: "pattern", other: false });
    expect(second.params.layer).toBe(0);
    expect(el.textContent).toContain("Layer 1 has not come yet");
    answer(model, first);
    await vi.waitFor(() => expect(el.textContent).toContain("position 3 looks at"));
    expect(el.textContent).not.toContain("has not come yet");
    model.push("layer", 0);
    answer(model, second);
    await vi.waitFor(() =>
      expect(el.querySelector("h3")?.textContent).toContain("Layer 0, head 2"),
    );
    expect(asked(model, "slice")).toHaveLength(2);
  });

  it("asks again once the run has come further, and shows what cannot be had", async () => {
    const model = running({ status: { state: "running", run: 1, done: 0, total: 2 } });
    const { el } = await shown(model);
    await vi.waitFor(() => expect(asked(model, "slice")).toHaveLength(2));
    for (const { rid } of asked(model, "slice")) {
      model.message({ kind: "error", rid, message: "not yet: layer 1 is being computed." });
    }
    await vi.waitFor(() => expect(el.textContent).toContain("has not come yet"));
    expect(asked(model, "slice")).toHaveLength(2);
    model.push("status", { state: "running", run: 1, done: 2, total: 2 });
    await vi.waitFor(() => expect(asked(model, "slice")).toHaveLength(4));
    const [again] = asked(model, "slice").slice(2) as [Asked];
    model.message({ kind: "error", rid: again.rid, message: "There is no layer 1." });
    await vi.waitFor(() => {
      expect(el.querySelector("[role=alert]")?.textContent).toBe("There is no layer 1.");
    });
  });

  it("forgets the weights of the last run", async () => {
    const model = running();
    const { el } = await shown(model);
    await vi.waitFor(() => expect(asked(model, "slice")).toHaveLength(2));
    for (const question of asked(model, "slice")) answer(model, question);
    await vi.waitFor(() => expect(el.textContent).toContain("looks at"));
    model.push("meta", makeAttentionMeta({ run: 2 }));
    await vi.waitFor(() => expect(el.textContent).toContain("Layer 1 has not come yet"));
    expect(asked(model, "slice")).toHaveLength(4);
  });

  it("groups heads by their keys and says what a head does", async () => {
    const { el } = await shown(frozen());
    await vi.waitFor(() => expect(head(el, 2)).not.toBeNull());
    expect(el.querySelectorAll(".ll-head-group")).toHaveLength(2);
    expect(head(el, 2).textContent).toBe("head 2 previous 0.93");
    expect(head(el, 2).title).toContain("Looks at the token before.");
    expect(el.querySelector(".ll-head-facts")?.textContent).toContain("Looks at the token before.");
    expect(el.querySelector(".ll-head-facts dd")?.textContent).toBe("0.93");
  });

  it("shows roles that come with the end of the run", async () => {
    const model = running({}, makeAttentionMeta({ roles: [] }));
    const { el } = await shown(model);
    expect(head(el, 2).textContent).toBe("head 2 ");
    model.push("meta", makeAttentionMeta());
    await vi.waitFor(() => expect(head(el, 2).textContent).toBe("head 2 previous 0.93"));
    expect(el.querySelector(".ll-head-facts")?.textContent).toContain("Looks at the token before.");
  });

  it("shows the head that is pressed; together, heads go on and off, and one can be alone", async () => {
    const model = frozen();
    const { el } = await shown(model);
    await vi.waitFor(() => expect(head(el, 1)).not.toBeNull());
    head(el, 1).click();
    expect(model.get("head")).toBe(1);
    head(el, 3).dispatchEvent(new MouseEvent("click", { bubbles: true, shiftKey: true }));
    expect([model.get("reduce"), model.get("shown")]).toEqual(["mean", [1, 3]]);
    head(el, 0).click();
    expect(model.get("shown")).toEqual([0, 1, 3]);
    await vi.waitFor(() =>
      expect(el.querySelector(".ll-square h3")?.textContent).toContain("mean"),
    );
    head(el, 0).click();
    head(el, 1).click();
    head(el, 3).click();
    expect(model.get("shown")).toEqual([3]);
    await vi.waitFor(() => expect(el.textContent).toContain("One head must stay on"));
    head(el, 2).dispatchEvent(new MouseEvent("dblclick", { bubbles: true }));
    expect(model.get("shown")).toEqual([2]);
    head(el, 2).dispatchEvent(new MouseEvent("dblclick", { bubbles: true }));
    expect(model.get("shown")).toEqual([]);
  });

  it("moves in the matrix and pins by the keyboard, and lets go with Escape", async () => {
    const model = frozen({ query: 1, key: 0 });
    const { el } = await shown(model);
    await vi.waitFor(() => expect(el.querySelector(".ll-matrix [role=grid]")).not.toBeNull());
    const grid = el.querySelector<HTMLElement>(".ll-matrix [role=grid]") as HTMLElement;
    const press = (key: string) =>
      grid.dispatchEvent(new KeyboardEvent("keydown", { key, bubbles: true, composed: true }));
    expect([grid.ariaRowCount ?? grid.getAttribute("aria-rowcount")]).toEqual(["4"]);
    press("ArrowDown");
    press("ArrowRight");
    expect([model.get("query"), model.get("key")]).toEqual([2, 1]);
    const active = () => grid.getAttribute("aria-activedescendant") ?? "none";
    await vi.waitFor(() => expect(active()).toMatch(/-2-1$/));
    // 200 of 255 of the largest weight of head 2, which is 1.5.
    expect(el.querySelector(`[id="${active()}"]`)?.textContent).toBe("1 ␣a: 1.18");
    press("Enter");
    expect(model.get("pins")).toEqual([{ position: 2, side: "query" }]);
    press("[");
    expect(model.get("layer")).toBe(0);
    press("Escape");
    expect([model.get("pins"), model.get("query"), model.get("key")]).toEqual([[], -1, -1]);
    expect(model.sent).toEqual([]);
  });

  it("pins queries and keys in the lines", async () => {
    const model = frozen({ query: 0 });
    const { el } = await shown(model);
    await vi.waitFor(() => expect(el.querySelector(".ll-links [role=grid]")).not.toBeNull());
    const grid = el.querySelector<HTMLElement>(".ll-links [role=grid]") as HTMLElement;
    const press = (key: string) =>
      grid.dispatchEvent(new KeyboardEvent("keydown", { key, bubbles: true, composed: true }));
    press("ArrowDown");
    expect(model.get("query")).toBe(1);
    press("Enter");
    press("ArrowRight");
    press("Enter");
    expect(model.get("pins")).toEqual([
      { position: 1, side: "query" },
      { position: 1, side: "key" },
    ]);
    press("Enter");
    expect(model.get("pins")).toEqual([{ position: 1, side: "query" }]);
  });

  it("says what is left out with the sinks", async () => {
    const model = frozen();
    const { el } = await shown(model);
    await vi.waitFor(() => expect(button(el, "Without sinks")).toBeDefined());
    button(el, "Without sinks").click();
    expect(model.get("mask_sinks")).toBe(true);
    await vi.waitFor(() => expect(el.textContent).toMatch(/Left out: key 0 <s>, which holds \d/));
  });

  it("asks for exact numbers of the selected query", async () => {
    const model = running({ query: 2 });
    const { el } = await shown(model);
    await vi.waitFor(() => expect(asked(model, "slice")).toHaveLength(2));
    answer(model, asked(model, "slice")[0] as Asked);
    await vi.waitFor(() => expect(el.textContent).toContain("position 2 looks at"));
    await new Promise((done) => setTimeout(done, 100));
    expect(asked(model, "exact")).toEqual([]); // the run goes on
    model.message({ kind: "frame", ...END.header }, END.buffers);
    await vi.waitFor(() => expect(asked(model, "exact")).toHaveLength(1));
    const [question] = asked(model, "exact") as [Asked];
    expect(question.params).toEqual({
      layer: 1,
      part: "self",
      weighting: "pattern",
      other: false,
      head: 2,
      query: 2,
    });
    const row = new DataView(Float32Array.from([0.25, 0.125, 0.0625, Number.NaN]).buffer);
    expect(el.querySelector(".ll-looks")?.textContent).toContain("±0.4 %");
    model.message({ kind: "reply", rid: question.rid, result: {} }, [row]);
    await vi.waitFor(() => expect(el.querySelector(".ll-looks")?.textContent).toContain("0.0625"));
    expect(el.querySelector(".ll-looks")?.textContent).not.toContain("±0.4 %");
  });

  it("has the kernel compute a weighting that is possible, and says why others are off", async () => {
    const model = running();
    const { el } = await shown(model);
    await vi.waitFor(() => expect(button(el, "× value …")).toBeDefined());
    expect(button(el, "× output").disabled).toBe(true);
    button(el, "× value …").click();
    expect(model.get("weighting")).toBe("value");
    expect(model.saved.at(-1)).toEqual({ weighting: "value" });
    const { el: still } = await shown(frozen());
    await vi.waitFor(() => expect(button(still, "× value")).toBeDefined());
    expect(button(still, "× value").title).toContain('weighting="value"');
  });

  it("compares with a second text, of its own layers; a difference needs one shape", async () => {
    const other = { ...makePart(), label: "B", model: "toy", text: "<s> a dog a" };
    const model = running({}, makeAttentionMeta({ other }));
    const { el } = await shown(model);
    await vi.waitFor(() => expect(asked(model, "slice")).toHaveLength(2));
    for (const question of asked(model, "slice")) answer(model, question);
    button(el, "Difference").click();
    expect(model.get("compare")).toBe("difference");
    expect(model.saved.at(-1)).toEqual({ compare: "difference" });
    await vi.waitFor(() => expect(asked(model, "slice")).toHaveLength(4));
    for (const question of asked(model, "slice").slice(2)) {
      expect(question.params.other).toBe(true);
      answer(model, question);
    }
    await vi.waitFor(() => expect(el.querySelector(".ll-looks")?.textContent).toContain("Nothing"));
    expect(el.querySelector(".ll-square h3")?.textContent).toContain("second − first");
    const short = { ...other, tokens: other.tokens.slice(1), key_tokens: other.tokens.slice(1) };
    const kept = { compare: "difference" as const };
    const { el: uneven } = await shown(running(kept, makeAttentionMeta({ other: short })));
    await vi.waitFor(() => expect(button(uneven, "Difference").disabled).toBe(true));
    expect(button(uneven, "Difference").title).toMatch(/different numbers of tokens/);
    expect(uneven.querySelectorAll(".ll-square")).toHaveLength(2);
  });

  it("runs an edited prompt", async () => {
    const model = running();
    const { el } = await shown(model);
    const area = el.querySelector("textarea") as HTMLTextAreaElement;
    area.value = "another text";
    area.dispatchEvent(new Event("input", { bubbles: true }));
    button(el, "Run").click();
    expect(model.get("text")).toBe("another text");
  });

  it("writes token text as text", async () => {
    const tokens = [{ id: 1, text: EVIL, cont: false }, ...makePart().tokens.slice(1)];
    const meta = makeAttentionMeta({ tokens, key_tokens: tokens });
    const { el } = await shown(frozen({ query: 0, key: 0 }, meta));
    await vi.waitFor(() => expect(el.textContent).toContain(EVIL));
    expect(el.querySelector("img")).toBeNull();
  });

  it("says which layers a page was saved without", async () => {
    const kept = { slices: {}, kept_words: "Layers 0 to 1 are too large for this page." };
    const { el } = await shown(frozen({}, kept));
    await vi.waitFor(() => expect(el.textContent).toContain("too large for this page"));
  });

  it("of weights from elsewhere has no prompt, and roles in its first part alone", async () => {
    const cross = makePart({ tokens: makePart().tokens.slice(1) });
    const slices = { "1/cross/pattern/0": packedSlice() };
    const status = { state: "done", run: 1, done: 1, total: 1 };
    const parts = { parts: ["encoder", "cross"], by_part: { encoder: makePart(), cross } };
    const meta = { model: "", dtype: "", checks: [], slices, ...parts };
    const { el } = await shown(frozen({ part: "encoder", status }, meta));
    await vi.waitFor(() => expect(head(el, 2).textContent).toContain("previous"));
    expect(el.querySelector("textarea")).toBeNull();
    expect(el.querySelector(".ll-facts")?.textContent).toBe("2 layers");
    expect(el.textContent).not.toContain("Checks come");
    button(el, "cross").click();
    await vi.waitFor(() => expect(head(el, 2).textContent).not.toContain("previous"));
    expect(el.querySelector(".ll-matrix [role=grid]")?.getAttribute("aria-rowcount")).toBe("3");
  });

  it("leaves nothing behind", async () => {
    const model = running();
    const { el, unmount, dispose } = await shown(model);
    await vi.waitFor(() => expect(asked(model, "slice")).toHaveLength(2));
    unmount();
    expect(el.childElementCount).toBe(0);
    expect(model.sent.filter((m) => m.kind === "cancel_request")).toHaveLength(2);
    dispose();
    expect(model.listening).toBe(0);
  });
});
