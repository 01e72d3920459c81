import { afterEach, beforeEach, describe, expect, it, vi } from "vitest";
import { LENS } from "../src/wire/lens";
import { Session } from "../src/wire/session";
import { FakeModel, makeMeta, makeRow } from "./fixtures";
import { shown, stubBrowser } from "./page";

/** A model whose host can say that the connection has changed, and whose connection can close. */
class Host extends FakeModel {
  closed = false;
  readonly #told: (() => void)[] = [];

  override send(content: unknown) {
    if (this.closed) throw new Error("Cannot send");
    super.send(content);
  }

  override on(event: string, callback: (...args: never[]) => void) {
    if (event === "comm_live_update") this.#told.push(callback as () => void);
    super.on(event, callback);
  }

  connectionChanged() {
    for (const callback of this.#told) callback();
  }
}

const pings = (model: FakeModel) => model.sent.filter((m) => m.kind === "ping").length;

describe("a kernel that no longer answers", () => {
  beforeEach(() => void vi.useFakeTimers());
  afterEach(() => void vi.useRealTimers());

  it("is asked only when a question stays without an answer, and takes the word back", () => {
    const model = new Host({ live: true, text: "a" });
    const session = new Session(model, LENS);
    vi.advanceTimersByTime(60_000);
    expect(pings(model)).toBe(0);
    session.run({ text: "b" });
    model.push("status", { state: "queued", run: 1 });
    vi.advanceTimersByTime(60_000);
    expect(pings(model)).toBe(0);
    session.run({ text: "c" });
    vi.advanceTimersByTime(5_000);
    expect(pings(model)).toBe(1);
    expect(session.pulse.lost.value).toBe("");
    vi.advanceTimersByTime(3_000);
    expect(session.pulse.lost.value).toBe("silent");
    expect(session.live.value).toBe(true);
    model.message({ kind: "pong" });
    expect(session.pulse.lost.value).toBe("");
  });

  it("is gone when the host says so and nobody answers, and questions end", async () => {
    const model = new Host({ live: true });
    const session = new Session(model, LENS);
    const question = session.rpc.request("search", {});
    model.connectionChanged();
    vi.advanceTimersByTime(3_000);
    expect(session.pulse.lost.value).toBe("gone");
    expect(session.live.value).toBe(false);
    await expect(question).rejects.toThrow("running kernel");
  });

  it("is there when it answers after the host's word", () => {
    const model = new Host({ live: true });
    const session = new Session(model, LENS);
    model.connectionChanged();
    model.message({ kind: "pong" });
    vi.advanceTimersByTime(60_000);
    expect(session.live.value).toBe(true);
  });

  it("is gone at once when nothing can be sent", () => {
    const model = new Host({ live: true });
    const session = new Session(model, LENS);
    model.closed = true;
    session.send({ kind: "run" });
    expect(session.live.value).toBe(false);
  });
});

describe("a view whose kernel is gone", () => {
  beforeEach(() => {
    stubBrowser();
    document.body.replaceChildren();
  });

  it("says so, keeps the picture and turns off what needs a kernel", async () => {
    const meta = makeMeta({ asked: { inputs: { text: "hi" }, options: {} } });
    const model = new Host({ live: true, text: "hi", meta, status: { state: "running", run: 1 } });
    const { el } = await shown(model);
    for (const row of [0, 1, 2]) {
      const { header, buffers } = makeRow(row);
      model.message({ kind: "frame", ...header }, buffers);
    }
    expect(el.querySelector(".ll-lost")).toBeNull();
    model.closed = true;
    model.connectionChanged();
    await vi.waitFor(() =>
      expect(el.querySelector(".ll-lost")?.textContent).toContain("run the cell"),
    );
    expect(el.querySelector<HTMLButtonElement>(".ll-primary")?.disabled).toBe(true);
    expect(el.querySelector("[role=grid]")).not.toBeNull();
    expect(el.querySelector(".ll-progress")).toBeNull();
  });
});

describe("a picture of another question", () => {
  beforeEach(() => {
    stubBrowser();
    document.body.replaceChildren();
  });

  it("is dimmed and named until the new run delivers", async () => {
    const asked = (text: string) => ({ inputs: { text }, options: {} });
    const meta = makeMeta({ asked: asked("The capital of France is") });
    const model = new FakeModel({ live: true, text: "The capital of France is", meta });
    const { el } = await shown(model);
    const old = () => el.querySelector(".ll-picture.ll-old") !== null;
    expect(old()).toBe(false);
    expect(el.querySelector(".ll-of")).toBeNull();

    await new Promise((done) => setTimeout(done, 50)); // the field follows its trait from here on
    const prompt = el.querySelector("textarea") as HTMLTextAreaElement;
    prompt.value = "Rome";
    prompt.dispatchEvent(new Event("input", { bubbles: true }));
    await vi.waitFor(() => expect(el.querySelector(".ll-of")?.textContent).toContain("France"));
    expect(old()).toBe(false); // typed, not asked

    prompt.dispatchEvent(new KeyboardEvent("keydown", { key: "Enter", bubbles: true }));
    model.push("text", "Rome");
    await vi.waitFor(() => expect(old()).toBe(true));
    model.push("status", { state: "cancelled", run: 2, done: 0, total: 0 });
    await vi.waitFor(() => expect(el.textContent).toContain("Cancelled before the first step."));
    expect(old()).toBe(true);

    model.push("meta", makeMeta({ run: 3, asked: asked("Rome") }));
    await vi.waitFor(() => expect(old()).toBe(false));
    expect(el.querySelector(".ll-of")).toBeNull();
  });
});
