import { nats } from "../common/format";
import { apart } from "./difference";
import type { OtherState, ViewState } from "./state";
import { TopList } from "./TopList";

/** The same cell of the other lens, and how far it is from this one. */
export function Other({ first, state }: { first: ViewState; state: OtherState }) {
  state.session.version.value;
  const data = state.data.value;
  const { label } = state;
  if (!data || !(first.data.value?.meta.other || first.compared)) return null;
  const cell = first.selected.value;
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
