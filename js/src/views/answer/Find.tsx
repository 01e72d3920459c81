import { TokenSearch } from "../common/TokenSearch";
import { Cell } from "./Cell";
import type { AnswerState } from "./state";

/** A field that looks for what has a token most, where the analysis knows how; opens as a cell. */
export function Find({ state }: { state: AnswerState }) {
  const finds = state.meta.value?.finds;
  if (!finds) return null;
  return (
    <>
      <div class="ll-find">
        <span class="ll-dim">Find {finds}:</span>
        <TokenSearch
          session={state.session}
          label={`Token by which to find ${finds}`}
          placeholder="a token…"
          choose={(token) => state.find(token.id)}
        />
      </div>
      <Cell state={state} near="field" />
    </>
  );
}
