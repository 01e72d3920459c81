import type { ComponentChildren } from "preact";
import { useLayoutEffect, useRef } from "preact/hooks";
import { applyPalette, type Palette } from "../../theme/palette";
import { takeName } from "./names";
import { Root } from "./root";
import type { BaseState } from "./state";
import { Definition } from "./Term";

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
  const named = state.session.traits.title.value || label;
  const root = useFrame(state.palette.value, named);
  return (
    <section
      class="ll-view"
      data-linked={state.session.traits.linked.value || undefined}
      ref={root}
      aria-label={named}
      // The path is asked because a shadow root hides the true target.
      onPointerDown={(event) => onPress?.(event.composedPath())}
      onKeyDown={onKeyDown}
    >
      <Root.Provider value={root}>
        <Lost state={state} />
        {children}
        <Definition state={state} />
      </Root.Provider>
    </section>
  );
}

/** The element of a view, which gets its colours, and a name that no other view of the page has. */
export function useFrame(palette: Palette, name: string) {
  const root = useRef<HTMLElement | null>(null);
  useLayoutEffect(() => {
    const { own, giveBack } = takeName(name);
    root.current?.setAttribute("aria-label", own);
    return giveBack;
  }, [name]);
  useLayoutEffect(() => {
    if (root.current) applyPalette(root.current, palette);
  }, [palette]);
  return root;
}

/** What has become of the kernel, while it does not answer, and what can be done. */
function Lost({ state }: { state: BaseState }) {
  switch (state.session.pulse.lost.value) {
    case "":
      return null;
    case "silent":
      return (
        <p class="ll-lost" role="alert">
          The kernel does not answer. It may be busy with a cell, and answers when that is done; if
          it was restarted, run the cell of this view again.
        </p>
      );
    case "gone":
      return (
        <p class="ll-lost" role="alert">
          The kernel was restarted or shut down. What is here can still be looked at; run the cell
          of this view again to ask anew.
        </p>
      );
  }
}

/** The part of a view that shows a run's numbers; dimmed while they answer another question. */
export function Picture({ state, children }: { state: BaseState; children: ComponentChildren }) {
  const outdated = state.outdated.value;
  return (
    <div class={outdated ? "ll-picture ll-old" : "ll-picture"} aria-busy={outdated && state.busy()}>
      {children}
    </div>
  );
}

/** Which texts the picture is of, where the fields say something else. */
export function PictureOf({ state }: { state: BaseState }) {
  state.session.version.value;
  const text = state.pictured();
  if (!text || !(state.outdated.value || state.drafting.value)) return null;
  return (
    <span class="ll-of" role="status" title={text}>
      Picture of “{text.length > MOST_SHOWN ? `${text.slice(0, MOST_SHOWN)}…` : text}”
    </span>
  );
}

const MOST_SHOWN = 70;

const LIVE: Readonly<Record<string, string>> = {
  cancelled: "Nothing was computed; press Run to begin anew.",
  running: "The first numbers are on their way…",
};

/** What stands in the place of the picture until there is one. */
export function Waiting({ state }: { state: BaseState }) {
  const { live, traits } = state.session;
  const now = traits.status.value.state;
  // What keeps the picture away is said beside the prompt.
  if (now === "error" || now === "waiting") return null;
  return (
    <p class="ll-waiting" role="status">
      {live.value
        ? (LIVE[now] ?? "Waiting for the kernel…")
        : "Nothing was saved with this page; run the cell to compute it."}
    </p>
  );
}
