import type { ComponentChildren } from "preact";
import { LayerSlider } from "../common/LayerSlider";
import { Part } from "../common/Part";
import { pointLabel } from "./data";
import type { ViewState } from "./state";
import { Numbers, TopList, Where } from "./TopList";

interface Props {
  state: ViewState;
  label: string;
  /** What stands under the numbers of the cell. */
  children?: ComponentChildren;
}

/** The layer slider and, under it, the tokens that lead at that row. */
export function Side({ state, label, children }: Props) {
  const data = state.data.value;
  state.session.version.value;
  if (!data) return null;
  const cell = state.selected.value;
  return (
    <Part class="ll-side" aria-label={label}>
      <LayerSlider
        at={cell.point}
        last={data.points - 1}
        name={pointLabel(data.meta.points[cell.point] ?? "")}
        go={(point) => state.select({ ...state.selected.peek(), point })}
      />
      <Where data={data} cell={cell} />
      <TopList state={state} data={data} cell={cell} pinnable ids={false} />
      <Numbers state={state} data={data} cell={cell} />
      {children}
    </Part>
  );
}
