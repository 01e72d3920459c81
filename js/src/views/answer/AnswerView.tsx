import { Grids } from "../arrays/Grids";
import { Panels } from "../arrays/Panels";
import { Reader } from "../arrays/Reader";
import { Singles } from "../arrays/Singles";
import { Checks } from "../common/Footer";
import { Header } from "../common/Header";
import { Help } from "../common/Help";
import { Lead } from "../common/Lead";
import { Picture, Shell, Waiting } from "../common/Shell";
import { Cell } from "./Cell";
import { Find } from "./Find";
import { GESTURES, HELP_NOTE } from "./gestures";
import { Strongest } from "./Strongest";
import type { AnswerState } from "./state";
import { Texts } from "./Texts";
import { Means, Toolbar } from "./Toolbar";

/** The answer of any analysis: grids, curves, tables and single numbers. */
export function AnswerView({ state }: { state: AnswerState }) {
  const { view, analysis_name } = state.session.traits;
  const data = state.data.value;
  const name = titleOf(analysis_name.value || (state.meta.value?.analysis ?? ""));
  const grids = (
    <Grids state={state} tools={<Means state={state} />}>
      <Strongest state={state} />
      <Cell state={state} />
    </Grids>
  );
  return (
    <Shell state={state} label={name} onKeyDown={(event) => closeKey(state, event)}>
      <Header state={state} name={name} />
      <Texts state={state} />
      <Help state={state} gestures={GESTURES} note={HELP_NOTE} />
      <Lead state={state} />
      <Toolbar state={state} />
      <Find state={state} />
      {data ? (
        <Picture state={state}>
          {view.value === "grid" && grids}
          <Panels state={state} data={data} />
          {view.value !== "grid" && grids}
          {!state.grid.value && <Cell state={state} />}
          <Singles state={state} data={data} />
          <Numbers state={state} />
        </Picture>
      ) : (
        <Waiting state={state} />
      )}
      <Checks state={state} last="part" />
    </Shell>
  );
}

/** All curves as tables; for those who do not see them, and to be looked up. */
function Numbers({ state }: { state: AnswerState }) {
  const data = state.data.value;
  if (!data || state.panels.value.length === 0) return null;
  return (
    <details class="ll-figures">
      <summary>All curves as tables</summary>
      <div class="ll-scrolled">
        <Reader state={state} data={data} />
      </div>
    </details>
  );
}

function titleOf(analysis: string): string {
  const words = analysis.replaceAll("_", " ");
  return words.charAt(0).toUpperCase() + words.slice(1);
}

/** Escape closes what a cell has opened. */
function closeKey(state: AnswerState, event: KeyboardEvent): void {
  if (event.key !== "Escape" || !state.opened.peek()) return;
  state.close();
  event.preventDefault();
  event.stopPropagation();
}
