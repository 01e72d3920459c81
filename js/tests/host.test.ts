import { expect, it, vi } from "vitest";
import { FrozenModel } from "../src/wire/frozen";
import { LENS } from "../src/wire/lens";
import { Session } from "../src/wire/session";
import { makeMeta, makeRow, pack } from "./fixtures";
import { stubBrowser } from "./page";

it("keeps state and tells of changes, once for each", () => {
  const model = new FrozenModel({ row: 1, live: true });
  const heard = vi.fn();
  model.on("change:row", heard);
  model.set("row", 2);
  model.set("row", 2);
  expect(model.get("row")).toBe(2);
  expect(heard).toHaveBeenCalledTimes(1);
  model.off("change:row", heard);
  model.set("row", 3);
  expect(heard).toHaveBeenCalledTimes(1);
});

it("is never live, whatever was saved, and still restores its picture", async () => {
  const snapshot = pack(
    makeMeta(),
    [0, 1, 2].map((row) => makeRow(row)),
  );
  const session = new Session(new FrozenModel({ live: true, meta: {}, snapshot }), LENS);
  expect(session.live.value).toBe(false);
  await vi.waitFor(() => expect(session.store.value?.complete).toBe(true));
  session.write({ row: 0 });
  expect(session.traits.row.value).toBe(0);
});

it("names a view that it does not know", async () => {
  stubBrowser();
  const { openView } = await import("../src/views/all");
  const { mount } = await import("../src/mount");
  const unmount = mount(openView(new FrozenModel({ view: "constructor" })), document.body);
  expect(document.body.textContent).toContain("does not know the view “constructor”");
  unmount();
});
