import { vi } from "vitest";
import type { widgetOf } from "../src/widget";
import type { FakeModel } from "./fixtures";

/** jsdom has no canvas, no layout and no media queries; the view must only not fall over them. */
export function stubBrowser() {
  const context = new Proxy(
    { measureText: (text: string) => ({ width: 6 * text.length }), font: "" },
    { get: (target, key) => Reflect.get(target, key) ?? (() => {}) },
  );
  HTMLCanvasElement.prototype.getContext = (() => context) as never;
  vi.stubGlobal(
    "Path2D",
    class {
      moveTo() {}
      lineTo() {}
      arc() {}
      rect() {}
    },
  );
  vi.stubGlobal("ImageData", class {});
  vi.stubGlobal(
    "ResizeObserver",
    class {
      observe() {}
      disconnect() {}
    },
  );
  vi.stubGlobal("matchMedia", () => ({
    matches: false,
    addEventListener() {},
    removeEventListener() {},
  }));
}

export async function widget(view: unknown = "lens") {
  const { default: make } = await import(`../src/entries/${String(view)}.ts`);
  return (make as ReturnType<typeof widgetOf>)();
}

/** One widget in one element, as a host shows it. */
export async function shown(model: FakeModel, root: HTMLElement | ShadowRoot = document.body) {
  const { initialize, render } = await widget(model.get("view"));
  const el = document.createElement("div");
  root.append(el);
  const dispose = initialize({ model });
  const unmount = render({ model, el });
  return { el, dispose, unmount };
}
