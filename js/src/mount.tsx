import { render } from "preact";
import { watchDark } from "./theme/dark";
import { LensView } from "./views/lens/LensView";
import { ViewState } from "./views/lens/state";
import { guardShortcuts } from "./views/shortcuts";
import type { Session } from "./wire/session";

/** Put one view of a session into an element; returns what takes it away again. */
export function mount(session: Session, el: HTMLElement): () => void {
  const root = el.ownerDocument.createElement("div");
  root.className = "layerlens";
  el.append(root);
  const watch = watchDark(el.ownerDocument);
  const state = new ViewState(session, watch.dark);
  const release = guardShortcuts(root);
  // A press outside the popup closes it; the path is asked because of shadow roots.
  const outside = (event: Event) => {
    const inside = event
      .composedPath()
      .some((node) => node instanceof HTMLElement && node.matches(".ll-popup, .ll-table"));
    if (!inside) state.popup.value = null;
  };
  root.addEventListener("pointerdown", outside);
  render(<LensView state={state} />, root);
  return () => {
    render(null, root);
    root.removeEventListener("pointerdown", outside);
    release();
    watch.stop();
    root.remove();
  };
}
