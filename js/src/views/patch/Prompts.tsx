import { type Signal, useSignal, useSignalEffect } from "@preact/signals";
import { TokenText } from "../../marks/TokenText";
import { plain } from "../../marks/text";
import type { TokenInfo, TokenName } from "../../wire/types";
import { TokenSearch } from "../common/TokenSearch";
import type { PatchData } from "./data";
import type { PatchState } from "./state";

const NO_KERNEL = "Running a prompt needs a kernel; this page has none.";
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
  const live = session.live.value;
  const changed = FIELDS.some((name) => drafts[name].value !== traits[name].value);
  const run = (over: Partial<Record<Field, string>> = {}) => {
    const question = Object.fromEntries(FIELDS.map((name) => [name, drafts[name].peek()]));
    session.run({ ...question, ...over });
  };
  const meta = state.meta.value;
  return (
    <div class="ll-prompt ll-pair">
      <PromptField label="Clean" draft={drafts.clean} live={live} run={run} />
      <AnswerField state={state} name="answer" draft={drafts.answer} run={run} own={meta?.answer} />
      <PromptField label="Corrupted" draft={drafts.corrupt} live={live} run={run} />
      <AnswerField state={state} name="wrong" draft={drafts.wrong} run={run} own={meta?.wrong} />
      <button
        type="button"
        class={changed ? "ll-run ll-primary" : "ll-run"}
        disabled={!live}
        title={live ? "Run both prompts (Enter)" : NO_KERNEL}
        onClick={() => run()}
      >
        Run
      </button>
    </div>
  );
}

/** What is typed and not run yet; follows the trait. */
function useDraft(trait: Signal<string>): Signal<string> {
  const draft = useSignal(trait.peek());
  useSignalEffect(() => {
    draft.value = trait.value;
  });
  return draft;
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
      <textarea
        rows={Math.min(4, draft.value.split("\n").length)}
        dir="auto"
        aria-label={`${label} prompt. Enter runs both, Shift and Enter starts a new line.`}
        spellcheck={false}
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

/** A long pair of prompts shows its beginning; the rest is one press away. */
const SHOWN = 40;

/** Both prompts token under token; where they differ is marked, and a press selects the position. */
export function Pairs({ state, data }: { state: PatchState; data: PatchData }) {
  const all = useSignal(false);
  const { meta } = data;
  const count = data.positions;
  const shown = all.value ? count : Math.min(count, SHOWN);
  const chosen = state.session.traits.position.value;
  return (
    <div class="ll-fed">
      <span class="ll-dim">
        {count} {count === 1 ? "token" : "tokens"}, {meta.differing.length}{" "}
        {meta.differing.length === 1 ? "differs" : "differ"}
      </span>
      <span class="ll-chips" dir="ltr">
        {Array.from({ length: shown }, (_, position) => (
          <Column
            key={position}
            data={data}
            position={position}
            chosen={position === chosen}
            choose={() => state.session.write({ position })}
          />
        ))}
        {count > SHOWN && (
          <button
            type="button"
            class="ll-link"
            aria-expanded={all.value}
            onClick={() => {
              all.value = !all.value;
            }}
          >
            {all.value ? "Show fewer" : `Show all ${count}`}
          </button>
        )}
      </span>
      {meta.notes.length > 0 && <p class="ll-note ll-notes">{meta.notes.join(" · ")}</p>}
    </div>
  );
}

interface ColumnProps {
  data: PatchData;
  position: number;
  chosen: boolean;
  choose: () => void;
}

function Column({ data, position, chosen, choose }: ColumnProps) {
  const { clean, corrupt } = data.pair(position);
  const differs = data.differs(position);
  const name = ["ll-chip ll-couple", chosen && "ll-chosen", differs && "ll-differs"];
  const of = (token: TokenInfo | undefined) =>
    token ? `${plain(token.text)} (id ${token.id})` : "nothing";
  const title = differs
    ? `position ${position}: ${of(clean)} in the clean prompt, ${of(corrupt)} in the corrupted one`
    : `position ${position}: ${of(clean)} in both`;
  return (
    <button
      type="button"
      tabIndex={-1}
      class={name.filter(Boolean).join(" ")}
      title={title}
      onClick={choose}
    >
      <Side token={clean} />
      <Side token={corrupt} />
      {differs && <span class="ll-offscreen">differs</span>}
    </button>
  );
}

function Side({ token }: { token: TokenInfo | undefined }) {
  if (!token) return <span class="ll-space">∅</span>;
  return token.cont ? <span class="ll-space">⋯</span> : <TokenText text={token.text} />;
}
