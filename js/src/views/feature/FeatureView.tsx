import { Cell } from "../answer/Cell";
import { Find } from "../answer/Find";
import { HELP_NOTE } from "../answer/gestures";
import { Texts } from "../answer/Texts";
import { Checks } from "../common/Footer";
import { Header } from "../common/Header";
import { Help } from "../common/Help";
import { Lead } from "../common/Lead";
import { Picture, Shell, Waiting } from "../common/Shell";
import { Examples } from "./Examples";
import { GESTURES } from "./gestures";
import { HowOften } from "./HowOften";
import { Layers } from "./Layers";
import { Meaning } from "./Meaning";
import { Pick } from "./Pick";
import { Steer } from "./Steer";
import type { FeatureState } from "./state";
import { Writes } from "./Writes";

/** One feature of a dictionary: when it is on, what it writes, and what becomes of a text. */
export function FeatureView({ state }: { state: FeatureState }) {
  const data = state.page.value;
  return (
    <Shell state={state} label="Feature" onKeyDown={(event) => closeKey(state, event)}>
      <Header state={state} name="Feature" />
      <Texts state={state} />
      <Help state={state} gestures={GESTURES} note={HELP_NOTE} />
      <Lead state={state} />
      {data && <Pick state={state} data={data} />}
      <Find state={state} />
      {data ? (
        <Picture state={state}>
          <Meaning state={state} />
          <div class="ll-feature-sides">
            <HowOften data={data} />
            <Writes state={state} data={data} />
          </div>
          <Layers data={data} />
          <Examples state={state} data={data} />
          <Cell state={state} />
          <Steer state={state} data={data} />
        </Picture>
      ) : (
        <Waiting state={state} />
      )}
      <Checks state={state} last="part" />
    </Shell>
  );
}

/** Escape closes what was opened. */
function closeKey(state: FeatureState, event: KeyboardEvent): void {
  if (event.key !== "Escape" || !state.opened.peek()) return;
  state.close();
  event.preventDefault();
  event.stopPropagation();
}
