import { readFileSync } from "node:fs";
import { beforeEach, describe, expect, it, vi } from "vitest";
import { keepAnswers } from "../lab/answers";
import type { NotebookModel, NotebookTracker } from "../lab/jupyterlab";
import { start } from "../src/host/start";
import { judge, sentence, whole } from "../src/views/course/verdict";
import { type Answer, COURSE, type Question, type Value } from "../src/wire/course";
import { FakeModel } from "./fixtures";
import { shown, stubBrowser } from "./page";

interface Case {
  question: Partial<Question>;
  answer: Value;
  truth: Value[];
  right: boolean | null;
  far: number | null;
  says: string;
}

const cases = JSON.parse(readFileSync("../tests/unit/course/verdicts.json", "utf8")) as Case[];
const question = (over: Partial<Question> = {}): Question => ({
  ...COURSE.question,
  id: "q",
  ask: "What?",
  ...over,
});
const given = (value: Value): Answer => ({ value, given: true, tries: 1 });

describe("verdicts", () => {
  it.each(cases)("$says", ({ question: over, answer, truth, right, far, says }) => {
    const asked = question(over);
    const verdict = judge(asked, answer, truth);
    expect(verdict.right).toBe(right);
    if (far === null) expect(verdict.far).toBeNull();
    else expect(verdict.far).toBeCloseTo(far);
    expect(sentence(asked, answer, verdict)).toBe(says);
    expect(whole(asked, answer)).toBe(true);
  });

  it("need a whole answer", () => {
    expect(whole(question({ kind: "layer", between: [0, 3] }), 4)).toBe(false);
    expect(whole(question({ kind: "layer" }), 1.5)).toBe(false);
    expect(whole(question({ kind: "token" }), " ")).toBe(false);
    const curve = question({ kind: "curve", options: ["0", "1"], between: [0, 1] });
    expect(whole(curve, [0, null])).toBe(false);
    expect(whole(question({ kind: "choice", options: ["a"] }), "b")).toBe(false);
  });
});

describe("the view of a question", () => {
  beforeEach(() => {
    stubBrowser();
    document.body.replaceChildren();
  });

  async function asked(over: Partial<Question>, traits: Record<string, unknown> = {}) {
    const model = new FakeModel({
      view: "course",
      live: true,
      question: question(over),
      ...traits,
    });
    const { el } = await shown(model);
    const put = async (input: HTMLInputElement | null, text: string) => {
      if (!input) throw new Error("no field");
      input.value = text;
      input.dispatchEvent(new Event("input", { bubbles: true }));
      await vi.waitFor(() => expect(el.querySelector("button")).not.toBeNull());
    };
    const button = () => el.querySelector<HTMLButtonElement>("button[type=submit]");
    const says = () => el.querySelector("[role=status]")?.textContent;
    return { model, el, put, button, says };
  }

  it("gives an answer only when it is one, and reveals the truth when that comes", async () => {
    const { model, el, put, button, says } = await asked({ kind: "layer", between: [0, 3] });
    expect(button()?.disabled).toBe(true);
    await put(el.querySelector("input"), "9");
    expect(button()?.disabled).toBe(true);
    await put(el.querySelector("input"), "2");
    await vi.waitFor(() => expect(button()?.disabled).toBe(false));
    button()?.click();
    await vi.waitFor(() => expect(says()).toBe("The truth is being computed…"));
    expect(model.get("answer")).toEqual({ value: 2, given: true, tries: 1 });
    model.push("truth", [3]);
    await vi.waitFor(() =>
      expect(says()).toBe("✗ Not quite: it is layer 3, you said layer 2, 1 layer away."),
    );
    expect(button()).toBeNull();
    expect(el.querySelector("input")?.readOnly).toBe(true);
  });

  it("takes a head as it is written", async () => {
    const { model, el, put } = await asked({ kind: "head" });
    await put(el.querySelector("input"), "5.");
    expect(model.get("answer")).toMatchObject({ value: null });
    await put(el.querySelector("input"), "5.1");
    expect(model.get("answer")).toMatchObject({ value: [5, 1], given: false });
  });

  it("lets an answer be changed where the author allows it", async () => {
    const over = { kind: "number", lock: false } as const;
    const { model, el } = await asked(over, { answer: given(1), truth: [2] });
    el.querySelector<HTMLButtonElement>("button")?.click();
    await vi.waitFor(() => expect(el.querySelector("input")?.readOnly).toBe(false));
    expect(model.get("answer")).toEqual({ value: 1, given: false, tries: 1 });
  });

  it("takes a curve by keys, and draws the real one beside it", async () => {
    const over = { kind: "curve", options: ["0", "1"], between: [0, 1] } as Partial<Question>;
    const { model, el } = await asked(over);
    const press = async (key: string) => {
      el.querySelector("[role=slider]")?.dispatchEvent(
        new KeyboardEvent("keydown", { key, bubbles: true }),
      );
      await new Promise(requestAnimationFrame);
    };
    await press("PageUp");
    await press("ArrowRight");
    await press("ArrowDown");
    const { value } = model.get("answer") as { value: number[] };
    expect(value.map((one) => Number(one.toFixed(2)))).toEqual([0.6, 0.48]);
    const slider = el.querySelector("[role=slider]");
    expect(slider?.getAttribute("aria-valuetext")).toBe("1: 0.48");
    el.querySelector<HTMLButtonElement>("button[type=submit]")?.click();
    model.push("truth", [[0.6, 0.5]]);
    await vi.waitFor(() => expect(el.querySelectorAll("path.ll-course-real")).toHaveLength(1));
    expect(el.querySelector("[role=slider]")).toBeNull();
  });

  it("says what keeps the truth away", async () => {
    const status = { ...COURSE.status, state: "error", message: "No model." };
    const broken = await asked({ kind: "number" }, { answer: given(1), status });
    expect(broken.says()).toBe("No model.");
    const frozen = await asked({ kind: "number" }, { answer: given(1), live: false });
    expect(frozen.says()).toContain("when the notebook runs");
  });

  it("keeps its hint until it is asked for", async () => {
    const { el } = await asked({ kind: "number", hint: "Look left." });
    expect(el.textContent).not.toContain("Look left.");
    el.querySelector<HTMLButtonElement>("button.ll-link")?.click();
    await vi.waitFor(() => expect(el.textContent).toContain("Hint: Look left."));
  });

  it("shows the figure of a page of its own only after the answer", async () => {
    const figure = { traits: { view: "none such" }, packed: "" };
    const traits = { view: "course", question: question({ kind: "choice", options: ["a", "b"] }) };
    const data = JSON.stringify({ traits: { ...traits, truth: ["b"], figure }, packed: "" });
    document.body.innerHTML = `<main id="layerlens-root"></main>
      <script type="application/json" id="layerlens-data">${data}</script>`;
    // uPlot asks the browser when it is loaded.
    const { openView } = await import("../src/views/all");
    await start(document, openView);
    const main = document.querySelector("main") as HTMLElement;
    expect(main.textContent).toContain("What?");
    expect(main.textContent).not.toContain("none such");
    document.querySelectorAll<HTMLInputElement>("input[type=radio]")[1]?.click();
    const button = () => document.querySelector<HTMLButtonElement>("button[type=submit]");
    await vi.waitFor(() => expect(button()?.disabled).toBe(false));
    button()?.click();
    await vi.waitFor(() => expect(document.body.textContent).toContain("Right: “b”."));
    await vi.waitFor(() => expect(main.textContent).toContain("none such"));
  });

  it("shows the widget that its host hands over, and takes it away with the view", async () => {
    const { widgetOf } = await import("../src/widget");
    const { openCourse } = await import("../src/views/course/open");
    const render = vi.fn(async ({ el }: { el: HTMLElement; signal: AbortSignal }) => {
      el.textContent = "a lens";
    });
    const host = { getWidget: vi.fn(async () => ({ render })) };
    const answer = { answer: given(1), truth: [1], figure: "anywidget:7" };
    const model = new FakeModel({
      view: "course",
      question: question({ kind: "number" }),
      ...answer,
    });
    const el = document.body.appendChild(document.createElement("div"));
    const unmount = widgetOf(openCourse)().render({ model, el, host });
    await vi.waitFor(() => expect(el.textContent).toContain("a lens"));
    expect(host.getWidget).toHaveBeenCalledWith("anywidget:7");
    unmount();
    await vi.waitFor(() => expect(render.mock.calls[0]?.[0].signal.aborted).toBe(true));
  });

  it("keeps answers in its notebook, and finds them there", async () => {
    const metadata: Record<string, unknown> = { layerlens: { other: 1 } };
    const model: NotebookModel = {
      getMetadata: (key) => metadata[key],
      setMetadata: (key, value) => {
        metadata[key] = value;
      },
    };
    const panels = [{ node: document.body, model }];
    const tracker = { find: (is: never) => panels.find(is) } as unknown as NotebookTracker;
    keepAnswers(document, tracker);
    const first = await asked({ kind: "number" });
    await first.put(first.el.querySelector("input"), "4");
    first.button()?.click();
    await vi.waitFor(() =>
      expect(metadata.layerlens).toEqual({ other: 1, answers: { q: given(4) } }),
    );
    const second = await asked({ kind: "number" });
    await vi.waitFor(() => expect(second.model.get("answer")).toEqual(given(4)));
    const third = await asked({ kind: "layer", between: [0, 3] });
    expect(third.model.get("answer")).toBeUndefined();
  });
});
