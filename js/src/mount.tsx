import { render } from "preact";
import { watchDark } from "./theme/dark";
import { guardShortcuts } from "./views/common/shortcuts";
import type { OpenView } from "./views/open";

/** Put a view into an element of a page that is `around`; returns what takes it away again. */
export function mount(view: OpenView, el: HTMLElement, around = el.ownerDocument): () => void {
  const root = el.ownerDocument.createElement("div");
  root.className = "layerlens";
  const hiding = el.ownerDocument.createElement("style");
  hiding.textContent = view.kept ? hide(view.kept) : "";
  el.append(hiding, root);
  const watch = watchDark(around);
  const release = guardShortcuts(root, view.keeps);
  render(view.element(watch.dark), root);
  return () => {
    render(null, root);
    release();
    watch.stop();
    root.remove();
    hiding.remove();
  };
}

/**
 * The rule that hides a picture in the notebook's file, and the box that JupyterLab puts it in. A
 * rule and no search for the element: it holds for what the notebook makes or renews later too,
 * and it is gone with the view.
 */
function hide(kept: string): string {
  return `.${kept}, .jp-OutputArea-child:has(.${kept}) { display: none !important; }`;
}
