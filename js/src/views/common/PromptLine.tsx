import { useSignalEffect } from "@preact/signals";
import type { CommonMeta, CommonTraits } from "../../wire/types";
import type { BaseState } from "./state";
import { RunButton, TextField, useDraft } from "./TextField";

interface Asking extends CommonTraits {
  text: string;
}

interface Props {
  state: BaseState<Asking, CommonMeta>;
  /** What the button says. */
  verb?: string;
  /** What else is asked with the prompt. */
  also?: object;
}

/** The prompt, edited in place, and the button that runs it. */
export function PromptLine({ state, verb, also }: Props) {
  const { session } = state;
  const draft = useDraft(session.traits.text);
  useSignalEffect(() => {
    state.drafting.value = draft.value !== session.traits.text.value;
  });
  const live = session.live.value;
  const run = () =>
    session.run({ text: draft.peek(), options: session.traits.options.peek(), ...also });
  return (
    <div class="ll-prompt-line">
      <TextField
        name="Prompt"
        text={draft.value}
        live={live}
        invalid={session.traits.status.value.state === "error"}
        write={(text) => {
          draft.value = text;
        }}
        run={run}
      />
      <RunButton live={live} title="Run this prompt (Enter)" verb={verb} run={run} />
    </div>
  );
}
