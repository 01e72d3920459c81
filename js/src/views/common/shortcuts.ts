const MARK = "lmSuppressShortcuts";

/**
 * Keep the notebook's own shortcuts away from keys pressed inside `el`.
 *
 * JupyterLab and Notebook look for the mark on the focused element itself, in the capture phase, so
 * it is set on the way there; it is taken off for Ctrl, Meta, Alt and Escape, so that saving and
 * leaving the widget still work, unless `keeps` says that the view has a use for the key. The path is
 * asked because a shadow root hides the true target.
 */
export function guardShortcuts(
  el: HTMLElement,
  keeps: (event: KeyboardEvent) => boolean = () => false,
): () => void {
  const listen = (event: KeyboardEvent) => {
    const path = event.composedPath();
    const target = path[0];
    if (!path.includes(el) || !(target instanceof HTMLElement)) return;
    const other = event.ctrlKey || event.metaKey || event.altKey || event.key === "Escape";
    const leave = other && !keeps(event);
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

/** Ctrl+Z and its reverses, on every keyboard. */
export function isUndo(event: KeyboardEvent): boolean {
  return (event.ctrlKey || event.metaKey) && !event.altKey && /^[zy]$/i.test(event.key);
}

export function isRedo(event: KeyboardEvent): boolean {
  return isUndo(event) && (event.shiftKey || /^y$/i.test(event.key));
}
