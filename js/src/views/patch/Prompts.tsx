import { type Signal, useSignalEffect } from "@preact/signals";
import { plain } from "../../marks/text";
import type { TokenName } from "../../wire/types";
import { RunButton, TextField, useDraft } from "../common/TextField";
import { TokenSearch } from "../common/TokenSearch";
import type { PatchState } from "./state";

const FIELDS = ["clean", "corrupt", "answer", "wrong"] as const;
type Field = (typeof FIELDS)[number];
type Drafts = Record<Field, Signal<string>>;

/** Both prompts and both answers, edited in place, and under them the tokens side by side. */
export function Prompts({ state }: { state: PatchState }) {
  const { session } = state;
  const { traits } = session;
  const drafts: Drafts = {
    clean: useDraft(traits.clean),
    corrupt: useDraft(traits.corrupt),
    answer: useDraft(traits.answer),
    wrong: useDraft(traits.wrong),
  };
  useSignalEffect(() => {
    state.drafting.value = FIELDS.some((name) => drafts[name].value !== traits[name].value);
  });
  const live = session.live.value;
  const run = (over: Partial<Record<Field, string>> = {}) => {
    const question = Object.fromEntries(FIELDS.map((name) => [name, drafts[name].peek()]));
    session.run({ ...question, ...over });
  };
  const meta = state.meta.value;
  return (
    <div class="ll-prompt ll-pair">
      {traits.linked.value ? (
        <div class="ll-field ll-fixed">
          <span>Clean</span>
          <span class="ll-above" title="The prompt of the lens; change it there">
            {traits.clean.value}
          </span>
        </div>
      ) : (
        <PromptField label="Clean" draft={drafts.clean} live={live} run={run} />
      )}
      <AnswerField state={state} name="answer" draft={drafts.answer} run={run} own={meta?.answer} />
      <PromptField label="Corrupted" draft={drafts.corrupt} live={live} run={run} />
      <AnswerField state={state} name="wrong" draft={drafts.wrong} run={run} own={meta?.wrong} />
      <RunButton live={live} title="Run both prompts (Enter)" run={() => run()} />
    </div>
  );
}

interface PromptProps {
  label: string;
  draft: Signal<string>;
  live: boolean;
  run: () => void;
}

function PromptField({ label, draft, live, run }: PromptProps) {
  return (
    <label class="ll-field">
      <span>{label}</span>
      <TextField
        name={`${label} prompt`}
        text={draft.value}
        live={live}
        write={(text) => {
          draft.value = text;
        }}
        run={run}
      />
    </label>
  );
}

interface AnswerProps {
  state: PatchState;
  name: "answer" | "wrong";
  draft: Signal<string>;
  run: (over?: Partial<Record<Field, string>>) => void;
  /** The token that is taken, chosen by the user or by the model. */
  own: TokenName | null | undefined;
}

function AnswerField({ state, name, draft, run, own }: AnswerProps) {
  const title = name === "answer" ? "Answer" : "Wrong";
  const what =
    name === "answer"
      ? "The token that the clean run gives; empty: the model’s own"
      : "The token that the corrupted run gives; empty: the model’s own";
  return (
    <div class="ll-field">
      <span>{title}</span>
      <TokenSearch
        session={state.session}
        label={`${title} token. Empty: the model’s own choice.`}
        placeholder={own ? `${plain(own.text)} (its own)` : "model’s own"}
        title={own ? `${what}. Now ${plain(own.text)}, id ${own.id}.` : what}
        draft={draft}
        commit={run}
        choose={(token) => run({ [name]: token.text })}
      />
    </div>
  );
}
