import { useSignal, useSignalEffect } from "@preact/signals";
import type { CommonMeta, CommonTraits } from "../../wire/types";
import type { BaseState } from "./state";

const NO_KERNEL = "Running a prompt needs a kernel; this page has none.";

interface Asking extends CommonTraits {
  text: string;
}

/** The prompt, edited in place, and the button that runs it. */
export function PromptLine({ state }: { state: BaseState<Asking, CommonMeta> }) {
  const { session } = state;
  const draft = useSignal(session.traits.text.peek());
  useSignalEffect(() => {
    draft.value = session.traits.text.value;
  });
  useSignalEffect(() => {
    state.drafting.value = draft.value !== session.traits.text.value;
  });
  const live = session.live.value;
  const run = () => session.run({ text: draft.peek(), options: session.traits.options.peek() });
  return (
    <div class="ll-prompt-line">
      <textarea
        rows={Math.min(5, draft.value.split("\n").length)}
        dir="auto"
        aria-label="Prompt. Enter runs it, Shift and Enter starts a new line."
        spellcheck={false}
        aria-invalid={session.traits.status.value.state === "error"}
        readOnly={!live}
        title={live ? undefined : NO_KERNEL}
        value={draft.value}
        onInput={(event) => {
          draft.value = event.currentTarget.value;
        }}
        onKeyDown={(event) => {
          if (event.key !== "Enter" || event.shiftKey || event.isComposing || !live) return;
          event.preventDefault();
          run();
        }}
      />
      <button
        type="button"
        class="ll-primary"
        disabled={!live}
        title={live ? "Run this prompt (Enter)" : NO_KERNEL}
        onClick={run}
      >
        Run
      </button>
    </div>
  );
}
