import { useSignal } from "@preact/signals";
import { plain } from "../../marks/text";
import type { TokenInfo } from "../../wire/types";
import { Chip } from "../common/Chip";
import { Fed, Notes } from "../common/Fed";
import { More } from "../common/More";
import { PromptLine } from "../common/PromptLine";
import { useDraft } from "../common/TextField";
import { Seen } from "./Seen";
import type { ViewState } from "./state";

/** The prompt, edited in place, and under it the tokens that the model was really fed. */
export function Prompt({ state }: { state: ViewState }) {
  const picture = state.meta.value?.picture;
  return (
    <div class="ll-prompt">
      {!picture && <PromptLine state={state} />}
      <Compared state={state} />
      <Fed state={state}>{!picture && <Chips state={state} />}</Fed>
      {picture && (
        <>
          <Seen state={state} picture={picture} />
          <Notes notes={state.meta.value?.notes ?? []} />
        </>
      )}
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
          <Chip
            key={`${position}:${token.id}`}
            token={token}
            next={tokens[position + 1]}
            tag={position === 0 && bos && "BOS"}
            marks={[position === chosen && "ll-chosen"]}
            title={chipTitle(token, position)}
            press={() => state.select({ point: state.selected.peek().point, position })}
          />
        ))}
        {tokens.length > SHOWN && <More all={all} count={tokens.length} />}
      </span>
      <Notes notes={notes} />
    </>
  );
}

function chipTitle(token: TokenInfo, position: number): string {
  const what = token.cont ? "continues the character before it" : plain(token.text);
  return `position ${position}, id ${token.id}: ${what}`;
}
