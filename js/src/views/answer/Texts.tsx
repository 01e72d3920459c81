import { useSignalEffect } from "@preact/signals";
import { Fed, Notes } from "../common/Fed";
import { Terms } from "../common/Term";
import { RunButton, TextField, useDraft } from "../common/TextField";
import type { AnswerState } from "./state";

/** The texts that are asked about, by their names, edited in place; and what a run would cost. */
export function Texts({ state }: { state: AnswerState }) {
  const { session } = state;
  session.version.value;
  const { inputs, input_names, linked } = session.traits;
  const drafts = useDraft(inputs);
  useSignalEffect(() => {
    state.drafting.value = JSON.stringify(drafts.value) !== JSON.stringify(inputs.value);
  });
  const live = session.live.value;
  const names = input_names.value.length > 0 ? input_names.value : Object.keys(inputs.value);
  const fields = names.length > 0 && !linked.value;
  const run = () => state.run(drafts.peek());
  return (
    <div class="ll-prompt">
      {fields && <Question state={state} />}
      <div class="ll-prompt-line">
        {fields && (
          <div class="ll-texts">
            {names.map((name) => (
              <Text
                key={name}
                name={name}
                alone={names.length === 1}
                text={drafts.value[name] ?? ""}
                live={live}
                write={(text) => {
                  drafts.value = { ...drafts.peek(), [name]: text };
                }}
                run={run}
              />
            ))}
          </div>
        )}
        {!fields && <Question state={state} />}
        <RunButton
          live={live}
          title={names.length > 0 ? "Run (Enter)" : "Run again"}
          run={run}
          primary={session.traits.status.value.state !== "waiting"}
        />
      </div>
      <Cost state={state} />
      <Fed state={state}>
        <Notes notes={state.meta.value?.notes ?? []} />
      </Fed>
    </div>
  );
}

function Question({ state }: { state: AnswerState }) {
  return (
    <p class="ll-asked">
      <Terms state={state} text={state.meta.value?.question ?? state.session.traits.asks.value} />
    </p>
  );
}

interface TextProps {
  name: string;
  alone: boolean;
  text: string;
  live: boolean;
  write: (text: string) => void;
  run: () => void;
}

function Text({ name, alone, text, live, write, run }: TextProps) {
  const words = name.replaceAll("_", " ");
  return (
    <label class={alone ? "ll-field ll-alone" : "ll-field"}>
      {!alone && <span>{words}</span>}
      <TextField name={words} text={text} live={live} write={write} run={run} />
    </label>
  );
}

/** What a run would take that has not begun, and the button that begins it. */
function Cost({ state }: { state: AnswerState }) {
  const { session } = state;
  const { state: now, message } = session.traits.status.value;
  if (now !== "waiting" || !session.live.value) return null;
  return (
    <div class="ll-cost" role="status">
      <span>{message}</span>
      <button type="button" class="ll-primary" onClick={() => session.run({})}>
        Run it
      </button>
    </div>
  );
}
