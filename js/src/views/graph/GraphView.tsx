import { Cell } from "../answer/Cell";
import { HELP_NOTE } from "../answer/gestures";
import { Texts } from "../answer/Texts";
import { Toolbar } from "../answer/Toolbar";
import { Panels } from "../arrays/Panels";
import { Reader } from "../arrays/Reader";
import { Singles } from "../arrays/Singles";
import { Checks } from "../common/Footer";
import { Header } from "../common/Header";
import { Help } from "../common/Help";
import { Lead } from "../common/Lead";
import { Picture, Shell, Waiting } from "../common/Shell";
import { Controls } from "./Controls";
import { Drawing } from "./Drawing";
import { GESTURES } from "./gestures";
import { Neighbours } from "./Neighbours";
import type { GraphState } from "./state";

/** Nodes by layer and token, the links between them, and what enters and leaves the chosen one. */
export function GraphView({ state }: { state: GraphState }) {
  const data = state.graph.value;
  return (
    <Shell state={state} label="Graph" onKeyDown={(event) => closeKey(state, event)}>
      <Header state={state} name="Graph" />
      <Texts state={state} />
      <Help state={state} gestures={GESTURES} note={HELP_NOTE} />
      <Lead state={state} />
      <Toolbar state={state} />
      {data ? (
        <Picture state={state}>
          <Controls state={state} data={data} />
          <Drawing state={state} data={data} />
          <Neighbours state={state} data={data} />
          <Cell state={state} />
          <Beside state={state} />
        </Picture>
      ) : (
        <Waiting state={state} />
      )}
      <Checks state={state} last="part" />
    </Shell>
  );
}

/** What is known of the graph as a whole: how much graphs keep, how good its estimates are. */
function Beside({ state }: { state: GraphState }) {
  const data = state.data.value;
  if (!data) return null;
  return (
    <>
      <Panels state={state} data={data} />
      <Singles state={state} data={data} />
      {state.panels.value.length > 0 && (
        <details class="ll-figures">
          <summary>All curves as tables</summary>
          <div class="ll-scrolled">
            <Reader state={state} data={data} />
          </div>
        </details>
      )}
    </>
  );
}

/** Escape closes what a node has opened, then chooses none. */
function closeKey(state: GraphState, event: KeyboardEvent): void {
  if (event.key !== "Escape") return;
  if (state.opened.peek()) state.close();
  else if (state.chosen.peek() >= 0) state.choose(-1);
  else return;
  event.preventDefault();
  event.stopPropagation();
}
