import { Grids } from "../arrays/Grids";
import { Panels } from "../arrays/Panels";
import { Reader } from "../arrays/Reader";
import { Singles } from "../arrays/Singles";
import { Checks } from "../common/Footer";
import { Header } from "../common/Header";
import { Help } from "../common/Help";
import { Lead } from "../common/Lead";
import { Picture, Shell, Waiting } from "../common/Shell";
import { GESTURES, HELP_NOTE } from "./gestures";
import { Picker } from "./Picker";
import type { MetricsState } from "./state";
import { Texts } from "./Texts";
import { Toolbar } from "./Toolbar";

/** Every layer measured: curves by layer, matrices, head grids. */
export function MetricsView({ state }: { state: MetricsState }) {
  const data = state.data.value;
  return (
    <Shell state={state} label="Metrics by layer" onKeyDown={(event) => openKey(state, event)}>
      <Header state={state} name="Metrics by layer" />
      <Texts state={state} />
      <Help state={state} gestures={GESTURES} note={HELP_NOTE} />
      <Lead state={state} />
      <Toolbar state={state} />
      {state.picking.value && <Picker state={state} />}
      {data ? (
        <Picture state={state}>
          <Panels state={state} data={data} />
          <Grids state={state} />
          <Singles state={state} data={data} />
          <div class="ll-offscreen">
            <Reader state={state} data={data} />
          </div>
        </Picture>
      ) : (
        <Waiting state={state} />
      )}
      <Checks state={state} last="layer" />
    </Shell>
  );
}

/** M opens the list of metrics from everywhere but a text. */
function openKey(state: MetricsState, event: KeyboardEvent): void {
  const target = event.composedPath()[0];
  const typing = target instanceof HTMLTextAreaElement || target instanceof HTMLInputElement;
  const other = event.ctrlKey || event.metaKey || event.altKey;
  if (typing || other || !/^m$/i.test(event.key)) return;
  event.preventDefault();
  event.stopPropagation();
  state.picking.value = true;
}
