import { afterEach, beforeEach, describe, expect, it, vi } from "vitest";
import { LENS } from "../src/wire/lens";
import { NoKernelError } from "../src/wire/rpc";
import { Session } from "../src/wire/session";
import { FakeModel, makeMeta, makeRow, pack } from "./fixtures";

function frame(row: number, seq?: number) {
  const { header, buffers } = makeRow(row, seq);
  return [{ kind: "frame", ...header }, buffers] as const;
}

describe("session", () => {
  it("says ready at once with what it has", () => {
    const model = new FakeModel({ live: true });
    new Session(model, LENS);
    expect(model.sent).toEqual([{ kind: "ready", run: 0, seq: 0 }]);
  });

  it("takes frames and pulls once when one is missing", async () => {
    const model = new FakeModel({ live: true, meta: makeMeta() });
    const session = new Session(model, LENS);
    model.message(...frame(0));
    model.message(...frame(2));
    model.message(...frame(2));
    const pulls = model.sent.filter((m) => m.method === "pull");
    expect(pulls).toHaveLength(1);
    expect(pulls[0]?.params).toEqual({ run: 1 });
    for (const row of [0, 1, 2]) model.message(...frame(row));
    expect(session.store.value?.complete).toBe(true);
    expect(session.fault.value).toBe("");
  });

  it("keeps a frame that overtakes its meta", () => {
    const model = new FakeModel({ live: true });
    const session = new Session(model, LENS);
    model.message(...frame(0));
    model.push("meta", makeMeta());
    expect(session.store.value?.seq).toBe(1);
  });

  it("keeps the numbers when only the checks of a run arrive", () => {
    const model = new FakeModel({ live: true, meta: makeMeta() });
    const session = new Session(model, LENS);
    model.message(...frame(0));
    const checks = [{ name: "final", error: 0, limit: 1, ok: true, what: "" }];
    model.push("meta", makeMeta({ checks }));
    expect(session.store.value?.seq).toBe(1);
    expect(session.store.value?.meta.checks).toEqual(checks);
    model.push("meta", makeMeta({ run: 2 }));
    expect(session.store.value?.seq).toBe(0);
  });

  it("keeps what is being moved when an older answer arrives, until it is sent", () => {
    vi.useFakeTimers();
    const model = new FakeModel({ live: true, layer: 30 });
    const session = new Session(model, LENS);
    session.write({ layer: 28 }, "soon");
    session.write({ layer: 27 }, "soon");
    model.push("layer", 28);
    expect(session.traits.layer.value).toBe(27);
    vi.runOnlyPendingTimers();
    expect(model.saved).toEqual([{ layer: 27 }]);
    model.push("layer", 5);
    expect(session.traits.layer.value).toBe(5);
    vi.useRealTimers();
  });

  it("restores the last picture with no kernel and sends nothing", async () => {
    const snapshot = pack(
      makeMeta(),
      [0, 1, 2].map((row) => makeRow(row)),
    );
    const model = new FakeModel({ live: false, meta: makeMeta(), snapshot });
    const session = new Session(model, LENS);
    await vi.waitFor(() => expect(session.store.value?.complete).toBe(true));
    expect(model.sent).toEqual([]);
    await expect(session.rpc.request("search", {})).rejects.toBeInstanceOf(NoKernelError);
  });

  it("says so when a saved picture cannot be read", async () => {
    const model = new FakeModel({ live: false, snapshot: new Uint8Array([1, 2, 3, 4, 5]) });
    const session = new Session(model, LENS);
    await vi.waitFor(() => expect(session.fault.value).toMatch(/could not be read/));
  });

  it("starts a changed prompt by its trait and the same one by a message", () => {
    const model = new FakeModel({ live: true, text: "a", options: { top_k: 3 } });
    const session = new Session(model, LENS);
    session.run({ text: "b", options: session.traits.options.value });
    expect(model.saved).toEqual([{ text: "b" }]);
    expect(model.sent.filter((m) => m.kind === "run")).toHaveLength(0);
    session.run({ text: "b", options: session.traits.options.value });
    expect(model.sent.at(-1)).toEqual({ kind: "run", text: "b", options: { top_k: 3 } });
  });

  it("lets go of the model when disposed", () => {
    const model = new FakeModel({ live: true });
    const session = new Session(model, LENS);
    expect(model.listening).toBeGreaterThan(0);
    session.dispose();
    expect(model.listening).toBe(0);
  });
});

describe("synced state", () => {
  beforeEach(() => void vi.useFakeTimers());
  afterEach(() => void vi.useRealTimers());

  it("sends a dragged value once, after it rests", () => {
    const model = new FakeModel({ live: true });
    const session = new Session(model, LENS);
    for (let row = 0; row < 20; row++) session.write({ row }, "soon");
    expect(session.traits.row.value).toBe(19);
    expect(model.saved).toHaveLength(0);
    vi.advanceTimersByTime(200);
    expect(model.saved).toEqual([{ row: 19 }]);
  });

  it("does not lose a dragged value when the view goes away", () => {
    const model = new FakeModel({ live: true });
    const session = new Session(model, LENS);
    session.write({ row: 3 }, "soon");
    session.dispose();
    expect(model.saved).toEqual([{ row: 3 }]);
  });
});

describe("requests", () => {
  function made() {
    const model = new FakeModel({ live: true });
    return { model, rpc: new Session(model, LENS).rpc };
  }

  it("pair replies and errors with their questions", async () => {
    const { model, rpc } = made();
    const first = rpc.request("search", { query: "a" });
    const second = rpc.request("track", {});
    const [a, b] = model.sent.slice(-2).map((m) => m.rid);
    model.message({ kind: "error", rid: b, message: "There is no such token." });
    model.message({ kind: "reply", rid: a, result: [1] });
    await expect(first).resolves.toMatchObject({ result: [1] });
    await expect(second).rejects.toThrow("There is no such token.");
  });

  it("ignore answers to others", () => {
    const { rpc } = made();
    expect(rpc.receive({ kind: "reply", rid: "elsewhere-1" }, [])).toBe(false);
  });

  it("can be taken back", async () => {
    const { model, rpc } = made();
    const controller = new AbortController();
    const asked = rpc.request("search", {}, controller.signal);
    const rid = model.sent.at(-1)?.rid;
    controller.abort();
    await expect(asked).rejects.toMatchObject({ name: "AbortError" });
    expect(model.sent.at(-1)).toEqual({ kind: "cancel_request", rid });
  });
});
