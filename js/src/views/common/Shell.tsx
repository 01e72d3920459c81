import type { ComponentChildren } from "preact";
import { createContext } from "preact";
import { useContext, useLayoutEffect, useRef } from "preact/hooks";
import { applyPalette } from "../../theme/palette";
import type { BaseState } from "./state";

const Root = createContext<{ readonly current: HTMLElement | null }>({ current: null });

/** The element of the whole view; only to be used after the first drawing. */
export function useRoot() {
  return useContext(Root);
}

interface Props {
  state: BaseState;
  label: string;
  /** A press anywhere in the view, with everything it went through. */
  onPress?: (path: EventTarget[]) => void;
  onKeyDown?: (event: KeyboardEvent) => void;
  children: ComponentChildren;
}

/** The frame of a view: its colours, and the element that floating parts are placed in. */
export function Shell({ state, label, onPress, onKeyDown, children }: Props) {
  const root = useRef<HTMLElement | null>(null);
  const palette = state.palette.value;
  useLayoutEffect(() => {
    if (root.current) applyPalette(root.current, palette);
  }, [palette]);
  return (
    <section
      class="ll-view"
      ref={root}
      aria-label={label}
      // The path is asked because a shadow root hides the true target.
      onPointerDown={(event) => onPress?.(event.composedPath())}
      onKeyDown={onKeyDown}
    >
      <Root.Provider value={root}>{children}</Root.Provider>
    </section>
  );
}

/** What stands in the place of the picture until there is one. */
export function Waiting({ state }: { state: BaseState }) {
  const { live, traits } = state.session;
  if (traits.status.value.state === "error") return null;
  return (
    <p class="ll-waiting" role="status">
      {live.value
        ? "Waiting for the kernel…"
        : "Nothing was saved with this page; run the cell to compute it."}
    </p>
  );
}
