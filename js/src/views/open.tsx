import type { ReadonlySignal } from "@preact/signals";
import type { VNode } from "preact";
import { LENS } from "../wire/lens";
import { PATCH } from "../wire/patch";
import { Session } from "../wire/session";
import type { AfmModel } from "../wire/types";
import { isUndo } from "./common/shortcuts";
import { LensView } from "./lens/LensView";
import { ViewState } from "./lens/state";
import { PatchView } from "./patch/PatchView";
import { PatchState } from "./patch/state";

/** One widget's model, opened: a session that any number of elements can show. */
export interface OpenView {
  /** Made once for each element that shows it. */
  element(dark: ReadonlySignal<boolean>): VNode;
  /** Ctrl and Meta keys that the view needs itself; the others are the notebook's. */
  keeps?: (event: KeyboardEvent) => boolean;
  dispose(): void;
}

const VIEWS: Readonly<Record<string, (model: AfmModel) => OpenView>> = {
  lens(model) {
    const session = new Session(model, LENS);
    return {
      element: (dark) => <LensView state={new ViewState(session, dark)} />,
      dispose: () => session.dispose(),
    };
  },
  patch(model) {
    const session = new Session(model, PATCH);
    return {
      element: (dark) => <PatchView state={new PatchState(session, dark)} />,
      keeps: isUndo,
      dispose: () => session.dispose(),
    };
  },
};

/** Open the view that the model's trait `view` names. */
export function openView(model: AfmModel): OpenView {
  const name = String(model.get("view") || "lens");
  const open = Object.hasOwn(VIEWS, name) ? VIEWS[name] : undefined;
  return open?.(model) ?? unknown(name);
}

function unknown(name: string): OpenView {
  return {
    element: () => (
      <p role="alert">
        This page does not know the view “{name}”. Reload the page: its script is of another version
        than the Python package.
      </p>
    ),
    dispose() {},
  };
}
