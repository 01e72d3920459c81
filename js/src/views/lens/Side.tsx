import { LayerSlider } from "../common/LayerSlider";
import { pointLabel } from "./data";
import type { ViewState } from "./state";
import { Numbers, TopList, Where } from "./TopList";

/** The layer slider and, under it, the next-token distribution at that row. */
export function Side({ state }: { state: ViewState }) {
  const data = state.data.value;
  state.session.version.value;
  if (!data) return null;
  const cell = state.selected.value;
  return (
    <section class="ll-side" aria-label="Next-token distribution by layer">
      <LayerSlider
        at={cell.point}
        last={data.points - 1}
        name={pointLabel(data.meta.points[cell.point] ?? "")}
        go={(point) => state.select({ ...state.selected.peek(), point })}
      />
      <Where data={data} cell={cell} />
      <TopList state={state} data={data} cell={cell} pinnable ids={false} />
      <Numbers data={data} cell={cell} />
    </section>
  );
}
