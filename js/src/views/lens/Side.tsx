import type { Cell } from "../../marks/windowing";
import { nats } from "../common/format";
import { LayerSlider } from "../common/LayerSlider";
import { pointLabel } from "./data";
import { apart } from "./difference";
import type { OtherState, ViewState } from "./state";
import { Numbers, TopList, Where } from "./TopList";

/** The layer slider and, under it, the next-token distribution at that row. */
export function Side({ state, other }: { state: ViewState; other: OtherState }) {
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
      <Numbers state={state} data={data} cell={cell} />
      {(data.meta.other || state.compared) && <Other state={other} cell={cell} />}
    </section>
  );
}

/** The same cell of the other lens, and how far it is from this one. */
function Other({ state, cell }: { state: OtherState; cell: Cell }) {
  state.session.version.value;
  const data = state.data.value;
  const { label } = state;
  if (!data) return null;
  const { change, kl } = apart(data.store, cell.point, cell.position, data.lens);
  const points = Number.isNaN(change) ? "–" : (100 * change).toFixed(2).replace("-", "−");
  return (
    <>
      <h4 class="ll-other" title={label}>
        {label}
      </h4>
      <TopList state={state} data={data} cell={cell} pinnable={false} ids={false} />
      <dl class="ll-numbers">
        <dt title="Of the token that the upper one has on top, in percentage points">
          change of P(top token)
        </dt>
        <dd>{change > 0 ? `+${points}` : points} pp</dd>
        <dt>KL to this one</dt>
        <dd>{nats(kl)}</dd>
      </dl>
    </>
  );
}
