import type { LensInfo } from "../../wire/lens";
import { Checks } from "../common/Footer";
import { Header } from "../common/Header";
import { Help } from "../common/Help";
import { Lead } from "../common/Lead";
import { Picture, Shell, Waiting } from "../common/Shell";
import { CellPopup, Preview } from "./Floating";
import { GESTURES, HELP_NOTE } from "./gestures";
import { Other } from "./Other";
import { Prompt } from "./Prompt";
import { ScoreKey } from "./ScoreKey";
import { Side } from "./Side";
import type { OtherState, ViewState } from "./state";
import { Tables } from "./Tables";
import { Toolbar } from "./Toolbar";
import { Trajectories } from "./Trajectories";

/** The whole view of a logit lens. */
export function LensView({ state, other }: { state: ViewState; other: OtherState }) {
  const close = (path: readonly EventTarget[]) => {
    closePopup(state, path);
    closePopup(other, path);
  };
  return (
    <Shell state={state} label="Logit lens" onPress={close}>
      <Header state={state} name={title(state.meta.value?.lenses ?? [])} />
      <Prompt state={state} />
      <Help state={state} gestures={GESTURES} note={HELP_NOTE} />
      <Lead state={state} />
      {state.data.value ? (
        <>
          <Toolbar state={state} />
          <Picture state={state}>
            <div class="ll-main">
              <Tables state={state} other={other} />
              <Side state={state} label="Next-token distribution by layer">
                <Other first={state} state={other} />
              </Side>
            </div>
            <ScoreKey state={state} />
            <p class="ll-hint">
              Stepped line: from there on the top token stays final. Click a cell for its top
              tokens; arrow keys move, Enter opens, P pins, ? lists all.
            </p>
            <Trajectories state={state} />
          </Picture>
        </>
      ) : (
        <Waiting state={state} />
      )}
      <Checks state={state} last="row" />
      <Preview state={state} />
      <CellPopup state={state} />
    </Shell>
  );
}

/** "Logit lens", or the names of all that read: "Logit, ridge and tuned lens". */
function title(lenses: readonly LensInfo[]): string {
  const names = lenses.map(({ name }) => name);
  const last = names.pop() ?? "logit";
  const all = names.length > 0 ? `${names.join(", ")} and ${last}` : last;
  return `${all.charAt(0).toUpperCase()}${all.slice(1)} lens`;
}

/** A press outside the popup closes it. */
function closePopup(state: ViewState, path: readonly EventTarget[]): void {
  const inside = path.some(
    (node) => node instanceof HTMLElement && node.matches(".ll-popup, .ll-table"),
  );
  if (!inside) state.popup.value = null;
}
