import { TokenText } from "../../marks/TokenText";
import { plain } from "../../marks/text";
import { Chip } from "../common/Chip";
import { Fed, Notes } from "../common/Fed";
import { PromptLine } from "../common/PromptLine";
import type { GenerationState } from "./state";

/** The text that the model goes on from, edited in place, and under it what it has written. */
export function Text({ state }: { state: GenerationState }) {
  return (
    <div class="ll-prompt">
      <PromptLine state={state} verb="Write" also={state.afresh()} />
      <Fed state={state} verb="Stop">
        <Written state={state} />
      </Fed>
      <Before state={state} />
    </div>
  );
}

/** The text and what was written; a press on a written token opens what else could stand there. */
function Written({ state }: { state: GenerationState }) {
  state.session.version.value;
  const data = state.written;
  if (!data) return null;
  const { prompt, tokens, begun, notes } = data.meta;
  const { position } = state.selected.value;
  const parted = state.parted();
  return (
    <>
      <span class={state.outdated.value ? "ll-chips ll-old" : "ll-chips"} dir="ltr">
        <span class="ll-said" title={`${prompt.length} tokens were fed`}>
          {prompt.map((text, at) => (
            // The place is the identity: a token may occur twice.
            <TokenText key={at} text={text} />
          ))}
        </span>
        {tokens.map((token, step) => (
          <Chip
            key={`${step}:${token.id}`}
            token={token}
            next={tokens[step + 1]}
            tag={step < begun && "GIVEN"}
            marks={["ll-written", step === position && "ll-chosen", step === parted && "ll-parted"]}
            title={`token ${step}, id ${token.id}: ${plain(token.text)}${
              step < begun ? "; it was given" : ""
            }`}
            press={() => state.select({ point: data.points - 1, position: step }, "now")}
          />
        ))}
      </span>
      <Notes notes={notes} />
    </>
  );
}

/** What was written before the branch, where it was left, and the way back. */
function Before({ state }: { state: GenerationState }) {
  state.session.version.value;
  const { before } = state.own.traits;
  if (before.value.length === 0) return null;
  const parted = state.parted();
  return (
    <div class="ll-fed ll-before">
      <span class="ll-dim">Before the branch</span>
      <span class="ll-chips" dir="ltr">
        {before.value.map((token, step) => (
          <Chip
            key={`${step}:${token.id}`}
            token={token}
            marks={[step === parted && "ll-parted"]}
            title={step === parted ? "the first difference" : `token ${step}`}
          />
        ))}
      </span>
      <span class="ll-dim">
        {parted < 0 ? "no difference so far" : `differs from token ${parted} on`}
      </span>
    </div>
  );
}
