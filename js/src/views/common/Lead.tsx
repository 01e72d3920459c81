import type { Signal } from "@preact/signals";
import type { BaseState } from "./state";
import { Terms } from "./Term";

/** One line that says what is seen and how it is read; a view that remembers it can fold it. */
export function Lead({ state }: { state: BaseState }) {
  const lead = state.meta.value?.lead;
  if (!lead) return null;
  const { lead_open } = state.session.traits as { lead_open?: Signal<boolean> };
  const line = (
    <p>
      <Terms state={state} text={lead} />
    </p>
  );
  if (!lead_open) return <div class="ll-lead">{line}</div>;
  return (
    <details
      class="ll-lead"
      open={lead_open.value}
      onToggle={(event) => {
        const { open } = event.currentTarget;
        if (open !== lead_open.peek()) state.session.write({ lead_open: open } as object);
      }}
    >
      <summary>How to read this</summary>
      {line}
    </details>
  );
}
