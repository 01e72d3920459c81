import { afterEach, beforeEach, describe, expect, it, vi } from "vitest";
import { holdsPage, pageOf } from "../src/views/common/page";
import { FrozenModel } from "../src/wire/frozen";
import { LENS } from "../src/wire/lens";
import { Session } from "../src/wire/session";
import { FakeModel, makeMeta, makeRow, pack } from "./fixtures";
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

  it("still makes its page, from the picture and the module that the browser holds", async () => {
    const title = "a < b & </title>";
    const rows = [0, 1, 2].map((row) => makeRow(row));
    const model = new Host({ live: true, title, snapshot: pack(makeMeta(), rows) });
    const session = new Session(model, LENS);
    expect(holdsPage(session)).toBe(false); // not yet read, and no module
    model.state._esm = "export default '<script></script>'";
    model.state._css = "b::after { content: '</style>' }";
    await vi.waitFor(() => expect(holdsPage(session)).toBe(true));

    const page = new DOMParser().parseFromString(pageOf(session, title), "text/html");
    expect(page.title).toBe(title);
    expect(page.querySelectorAll("script")).toHaveLength(2);
    expect(page.querySelector("script[type=module]")?.textContent).toContain("\\x3c/script>'");
    expect(page.querySelectorAll("style")[1]?.textContent).toContain("\\3c /style>' }");
    const text = page.getElementById("layerlens-data")?.textContent ?? "";
    const { traits, packed } = JSON.parse(text);
    expect(traits).toMatchObject({ live: false, title });
    const snapshot = Uint8Array.from(atob(packed), (sign) => sign.charCodeAt(0));
    const again = new Session(new FrozenModel({ ...traits, snapshot }), LENS);
    await vi.waitFor(() => expect(again.store.value?.complete).toBe(true));
    expect(again.store.value?.arrays).toEqual(session.store.value?.arrays);
  });

  it("offers the page and nothing else that needs a kernel", async () => {
    const rows = [0, 1, 2].map((row) => makeRow(row));
    const model = new Host({
      live: true,
      snapshot: pack(makeMeta(), rows),
      _esm: "1",
      meta: makeMeta(),
    });
    const { el } = await shown(model);
    await vi.waitFor(() => expect(el.querySelector("[role=grid]")).not.toBeNull());
    model.closed = true;
    model.connectionChanged();
    const offered = () =>
      [...el.querySelectorAll<HTMLButtonElement>("[aria-label=Export] button")]
        .filter((button) => !button.disabled)
        .map((button) => button.textContent);
    await vi.waitFor(() => expect(offered()).toEqual(["HTML"]));
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
