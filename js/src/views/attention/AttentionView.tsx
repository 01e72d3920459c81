import { useLayoutEffect } from "preact/hooks";
import { FAINTEST } from "../../marks/links";
import { Fed, Notes } from "../common/Fed";
import { Checks } from "../common/Footer";
import { Header } from "../common/Header";
import { Help } from "../common/Help";
import { Lead } from "../common/Lead";
import { PromptLine } from "../common/PromptLine";
import { Picture, Shell, Waiting } from "../common/Shell";
import { Figure } from "./Figure";
import { GESTURES, HELP_NOTE } from "./gestures";
import { Heads } from "./Heads";
import { PairTip } from "./PairTip";
import { Side } from "./Side";
import type { AttentionState } from "./state";
import { Toolbar } from "./Toolbar";

const HINT =
  `Lines weaker than ${Math.round(100 * FAINTEST)} % of the strongest are not drawn; hover or pin a token for ` +
  "all of its own. Press a head to see it large; arrow keys move, Enter pins, ? lists all.";

/** The whole view of attention. */
export function AttentionView({ state }: { state: AttentionState }) {
  useLayoutEffect(() => state.attach(), [state]);
  const data = state.data.value;
  return (
    <Shell state={state} label="Attention">
      <Header state={state} name="Attention" />
      <Asked state={state} />
      <Help state={state} gestures={GESTURES} note={HELP_NOTE} />
      {data ? (
        <>
          <Lead state={state} />
          <Toolbar state={state} data={data} />
          <Picture state={state}>
            <Heads state={state} data={data} />
            <div class="ll-main">
              <div class="ll-squares" data-mode={state.session.traits.mode.value}>
                {state.sides().map((shows) => (
                  <Figure key={shows} state={state} shows={shows} />
                ))}
              </div>
              <Side state={state} data={data} />
            </div>
            <p class="ll-hint">{HINT}</p>
          </Picture>
        </>
      ) : (
        <Waiting state={state} />
      )}
      <Checks state={state} last="layer" />
      <PairTip state={state} />
    </Shell>
  );
}

/** The prompt, and what became of it. A view of weights from elsewhere has none. */
function Asked({ state }: { state: AttentionState }) {
  const meta = state.meta.value;
  state.session.version.value;
  return (
    <div class="ll-prompt">
      {meta?.model !== "" && <PromptLine state={state} />}
      <Fed state={state}>
        {meta && <span class="ll-dim">{meta.tokens.length} tokens</span>}
        <Notes notes={meta?.notes ?? []} />
      </Fed>
    </div>
  );
}
