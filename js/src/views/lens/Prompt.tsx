import { useSignal } from "@preact/signals";
import { TokenText } from "../../marks/TokenText";
import { plain } from "../../marks/text";
import type { TokenInfo } from "../../wire/types";
import { Outcome, Progress } from "../common/Footer";
import { More } from "../common/More";
import { PromptLine } from "../common/PromptLine";
import { PictureOf } from "../common/Shell";
import { useDraft } from "../common/TextField";
import type { ViewState } from "./state";

/** The prompt, edited in place, and under it the tokens that the model was really fed. */
export function Prompt({ state }: { state: ViewState }) {
  return (
    <div class="ll-prompt">
      <PromptLine state={state} />
      <Compared state={state} />
      <Outcome state={state} />
      <div class="ll-fed">
        <PictureOf state={state} />
        <Chips state={state} />
        <Progress state={state} />
      </div>
    </div>
  );
}

const WORDS = { model: "Other model", text: "Other text", edits: "Edited run" };

/** What lies over this prompt: a second text, edited in place, or a model or edits by name. */
function Compared({ state }: { state: ViewState }) {
  const { session } = state;
  const { other, other_kind } = session.traits;
  const draft = useDraft(other);
  const kind = other_kind.value;
  if (!kind) return null;
  return (
    <label class="ll-compared">
      <span class="ll-dim">{WORDS[kind]}</span>
      <input
        type="text"
        dir="auto"
        spellcheck={false}
        readOnly={kind !== "text" || !session.live.value}
        title={kind === "text" ? "Enter runs it; as many tokens as the prompt" : other.value}
        value={draft.value}
        onInput={(event) => {
          draft.value = event.currentTarget.value;
        }}
        onKeyDown={(event) => {
          if (event.key !== "Enter" || event.isComposing || kind !== "text") return;
          event.preventDefault();
          session.put({ other: draft.peek() });
        }}
      />
    </label>
  );
}

/** A long prompt shows its beginning; all of it is one press away and in the table anyway. */
const SHOWN = 48;

/** The tokens fed, ids on hover; a click selects the position. */
function Chips({ state }: { state: ViewState }) {
  const all = useSignal(false);
  const data = state.data.value;
  if (!data) return null;
  const { tokens, notes } = data.meta;
  const shown = all.value ? tokens : tokens.slice(0, SHOWN);
  // Notes name BOS when the first token is one, given or added.
  const bos = notes.some((note) => note.includes("BOS"));
  const { position: chosen } = state.selected.value;
  return (
    <>
      <span class="ll-dim">
        {tokens.length} {tokens.length === 1 ? "token" : "tokens"} fed
      </span>
      <span class={state.outdated.value ? "ll-chips ll-old" : "ll-chips"} dir="ltr">
        {shown.map((token, position) => (
          <button
            type="button"
            key={`${position}:${token.id}`}
            tabIndex={-1}
            class={chipClass(token, tokens[position + 1], position === chosen)}
            title={chipTitle(token, position)}
            onClick={() => state.select({ point: state.selected.peek().point, position })}
          >
            {position === 0 && bos && <span class="ll-bos">BOS</span>}
            {token.cont ? <span class="ll-space">⋯</span> : <TokenText text={token.text} />}
          </button>
        ))}
        {tokens.length > SHOWN && <More all={all} count={tokens.length} />}
      </span>
      {notes.map((note) => (
        <span class="ll-note" key={note}>
          {note}
        </span>
      ))}
    </>
  );
}

function chipClass(token: TokenInfo, next: TokenInfo | undefined, chosen: boolean): string {
  const names = ["ll-chip"];
  if (token.cont) names.push("ll-joined-left");
  if (next?.cont) names.push("ll-joined-right");
  if (chosen) names.push("ll-chosen");
  return names.join(" ");
}

function chipTitle(token: TokenInfo, position: number): string {
  const what = token.cont ? "continues the character before it" : plain(token.text);
  return `position ${position}, id ${token.id}: ${what}`;
}
