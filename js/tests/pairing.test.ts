import { beforeEach, describe, expect, it, vi } from "vitest";
import { marked, unmarked } from "../src/views/common/TokenSearch";
import { columnsOf, type Link, linked, linksOf, unlinked } from "../src/views/patch/links";
import { FakeModel, makePatchMeta } from "./fixtures";
import { shown, stubBrowser } from "./page";

const PROPOSED: Link[] = [
  [0, 0],
  [1, 1],
  [2, 3],
  [3, 4],
];

const token = (text: string, id: number) => ({ id, text, cont: false });

/** "<s> of France is" against "<s> of the Netherlands is". */
function unequal() {
  const base = makePatchMeta();
  return makePatchMeta({
    corrupt_tokens: ["<s>", " of", " the", " Netherlands", " is"].map(token),
    clean_tokens: base.clean_tokens,
    partners: [0, 1, null, 2, 3],
    differing: [2, 3],
    columns: ["<s>", " of", " the", " Netherlands", " is"],
  });
}

describe("tokens that belong together", () => {
  it("stand in one column, the others alone in their order", () => {
    expect(columnsOf(PROPOSED, 4, 5)).toEqual([
      [0, 0],
      [1, 1],
      [null, 2],
      [2, 3],
      [3, 4],
    ]);
    expect(columnsOf([[0, 0]], 2, 3)).toEqual([
      [0, 0],
      [1, null],
      [null, 1],
      [null, 2],
    ]);
  });

  it("may cross, and every token is still shown once", () => {
    const columns = columnsOf(
      [
        [0, 2],
        [2, 0],
      ],
      3,
      3,
    );
    expect(columns.map(([c]) => c).filter((c) => c !== null)).toEqual([0, 1, 2]);
    expect(columns.flatMap(([, k]) => k ?? []).sort()).toEqual([0, 1, 2]);
  });

  it("come from the run whichever prompt is patched", () => {
    expect(linksOf([0, 1, null, 2, 3], "corrupt")).toEqual(PROPOSED);
    expect(linksOf([0, 1, 3, 4], "clean")).toEqual(PROPOSED);
  });

  it("are parted from what they belonged to before", () => {
    expect(linked(PROPOSED, [2, 2])).toEqual([
      [0, 0],
      [1, 1],
      [2, 2],
      [3, 4],
    ]);
    expect(linked(PROPOSED, [0, 4])).toEqual([
      [0, 4],
      [1, 1],
      [2, 3],
    ]);
    expect(unlinked(PROPOSED, "corrupt", 3)).toEqual([
      [0, 0],
      [1, 1],
      [3, 4],
    ]);
  });
});

describe("prompts of unequal length", () => {
  beforeEach(() => {
    stubBrowser();
    document.body.replaceChildren();
  });

  async function bench(over: Record<string, unknown> = {}) {
    const model = new FakeModel({ view: "patch", live: true, meta: unequal(), ...over });
    const { el } = await shown(model);
    const button = (name: RegExp) =>
      Array.from(el.querySelectorAll("button")).find((b) =>
        name.test(b.getAttribute("aria-label") ?? b.textContent ?? ""),
      ) as HTMLButtonElement;
    const key = (on: HTMLElement, name: string) =>
      on.dispatchEvent(
        new KeyboardEvent("keydown", { key: name, bubbles: true, cancelable: true }),
      );
    return { el, model, button, key };
  }

  it("are shown with what belongs together and what does not", async () => {
    const { el } = await bench();
    const couples = Array.from(el.querySelectorAll(".ll-couple"), (chip) => chip.textContent);
    expect(couples).toEqual([
      "<s><s>",
      "␣of␣of",
      "∅␣thediffers",
      "␣France␣Netherlandsdiffers",
      "␣is␣is",
    ]);
    expect(el.textContent).toContain("4 and 5 tokens, 2 differ");
    expect(el.textContent).toContain("equal tokens were paired");
  });

  it("are paired by two presses, and the kernel is asked anew", async () => {
    const { model, button } = await bench({ options: { verify: 2 } });
    button(/^Pair tokens/).click();
    await vi.waitFor(() => expect(button(/the, position 2/)).toBeTruthy());
    button(/the, position 2/).click();
    button(/France, position 2/).click();
    expect(model.get("options")).toEqual({
      verify: 2,
      align: [
        [0, 0],
        [1, 1],
        [2, 2],
        [3, 4],
      ],
    });
    await vi.waitFor(() => expect(button(/^Propose again/).disabled).toBe(false));
    button(/^Propose again/).click();
    expect(model.get("options")).toEqual({ verify: 2 });
  });

  it("are paired by keyboard: arrows move along and across, Delete parts, Escape leaves", async () => {
    const { el, model, button, key } = await bench();
    button(/^Pair tokens/).click();
    await vi.waitFor(() => expect(button(/of, position 1 of the clean/)).toBeTruthy());
    const clean = button(/of, position 1 of the clean/);
    clean.focus();
    key(clean, "ArrowRight"); // over the column without a clean token
    expect(document.activeElement).toBe(button(/France, position 2/));
    key(document.activeElement as HTMLElement, "ArrowDown");
    expect(document.activeElement).toBe(button(/Netherlands, position 3/));
    key(document.activeElement as HTMLElement, "Delete");
    expect((model.get("options") as { align: Link[] }).align).toEqual([
      [0, 0],
      [1, 1],
      [3, 4],
    ]);
    key(el.querySelector(".ll-half") as HTMLElement, "Escape");
    await vi.waitFor(() => expect(el.querySelector(".ll-half")).toBeNull());
  });

  it("patch with the partner's value, and not where there is none", async () => {
    const { el, model, button, key } = await bench({ layer: 1, position: 3 });
    await vi.waitFor(() => expect(button(/^Add to the list/)).toBeTruthy());
    button(/^Add to the list/).click();
    expect(model.get("edits")).toEqual([
      {
        site: "resid_pre",
        layer: 1,
        position: 3,
        head: null,
        from: { layer: 1, position: 2 },
        on: true,
      },
    ]);
    await vi.waitFor(() => expect(el.querySelector(".ll-list li")?.textContent).toBeTruthy());
    expect(el.querySelector(".ll-list li")?.textContent).not.toContain("from");
    model.push("position", 2);
    button(/^Selected cell/).click();
    const side = () => el.querySelector(".ll-side")?.textContent;
    await vi.waitFor(() => expect(side()).toContain("␣the belongs to no token"));
    expect(button(/^Add to the list/)).toBeUndefined();
    key(el.querySelector("[role=grid]") as HTMLElement, "a");
    expect(model.get("edits")).toHaveLength(1);
  });

  it("cannot be paired without a kernel", async () => {
    const { button } = await bench({ live: false });
    expect(button(/^Pair tokens/)).toBeUndefined();
  });
});

describe("a leading space in a field for a token", () => {
  it("is written as a mark and read back as a space", () => {
    expect(marked(" Paris")).toBe("␣Paris");
    expect(unmarked("␣Paris")).toBe(" Paris");
    expect(unmarked(" ␣Paris")).toBe("  Paris");
    expect(marked("New York")).toBe("New York");
  });
});
