import { render } from "preact";
import { watchDark } from "./theme/dark";
import { guardShortcuts } from "./views/common/shortcuts";
import type { OpenView } from "./views/open";

/** Put a view into an element; returns what takes it away again. */
export function mount(view: OpenView, el: HTMLElement): () => void {
  const root = el.ownerDocument.createElement("div");
  root.className = "layerlens";
  el.append(root);
  const watch = watchDark(el.ownerDocument);
  const release = guardShortcuts(root, view.keeps);
  render(view.element(watch.dark), root);
  return () => {
    render(null, root);
    release();
    watch.stop();
    root.remove();
  };
}
