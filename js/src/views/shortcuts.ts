const MARK = "lmSuppressShortcuts";

/**
 * Keep the notebook's own shortcuts away from keys pressed inside `el`.
 *
 * JupyterLab and Notebook look for the mark on the focused element itself, in the capture phase, so
 * it is set on the way there; it is taken off for Ctrl, Meta, Alt and Escape, so that saving and
 * leaving the widget still work. The path is asked because a shadow root hides the true target.
 */
export function guardShortcuts(el: HTMLElement): () => void {
  const listen = (event: KeyboardEvent) => {
    const path = event.composedPath();
    const target = path[0];
    if (!path.includes(el) || !(target instanceof HTMLElement)) return;
    const leave = event.ctrlKey || event.metaKey || event.altKey || event.key === "Escape";
    // Hosts outside a shadow root see its host element as the target.
    for (const element of [target, event.target]) {
      if (!(element instanceof HTMLElement)) continue;
      if (leave) delete element.dataset[MARK];
      else element.dataset[MARK] = "true";
    }
  };
  window.addEventListener("keydown", listen, { capture: true });
  return () => window.removeEventListener("keydown", listen, { capture: true });
}
