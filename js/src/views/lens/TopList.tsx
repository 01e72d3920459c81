import { PromptToken, TokenText } from "../../marks/TokenText";
import { plain } from "../../marks/text";
import type { Cell } from "../../marks/windowing";
import { Bar } from "../common/Bar";
import { nats, percent, whole } from "../common/format";
import { type LensData, pointLabel, type TopToken } from "./data";
import { isWorse, scoreWords } from "./scores";
import type { ViewState } from "./state";

/** Where a distribution was read: after which token, at which row. */
export function Where({ data, cell }: { data: LensData; cell: Cell }) {
  const token = data.meta.tokens[cell.position];
  return (
    <div class="ll-where">
      <span class="ll-dim">{data.relation}</span> <PromptToken token={token} />
      <span class="ll-dim ll-num">
        {" "}
        · {data.place} {cell.position} · {pointLabel(data.meta.points[cell.point] ?? "")}
      </span>
    </div>
  );
}

interface ListProps {
  state: ViewState;
  data: LensData;
  cell: Cell;
  /** Tokens can be pinned by pressing them. */
  pinnable: boolean;
  ids: boolean;
}

/** The top tokens of one cell with bars. */
export function TopList({ state, data, cell, pinnable, ids }: ListProps) {
  const tops = data.top(cell.point, cell.position);
  if (tops.length === 0) return <p class="ll-note">This row has not been computed yet.</p>;
  const rest = 1 - tops.reduce((sum, top) => sum + top.probability, 0);
  return (
    <ol class={ids ? "ll-tops ll-with-ids" : "ll-tops"}>
      {tops.map((top) => (
        <li key={top.id}>
          <Top state={state} top={top} position={cell.position} pinnable={pinnable} ids={ids} />
          {pinnable && <Branch state={state} cell={cell} top={top} />}
        </li>
      ))}
      {rest > 0.00005 && (
        <li class="ll-top ll-rest">
          <span class="ll-rank" />
          <span>all others</span>
          <Bar amount={rest} />
          <span class="ll-num">{percent(rest)}</span>
          {ids && <span />}
        </li>
      )}
    </ol>
  );
}

interface TopProps {
  state: ViewState;
  top: TopToken;
  position: number;
  pinnable: boolean;
  ids: boolean;
}

function Top({ state, top, position, pinnable, ids }: TopProps) {
  const pin = { position, id: top.id };
  const style = state.trajectories.value.find(
    ({ pin: other }) => other.id === pin.id && other.position === pin.position,
  )?.style;
  const cells = (
    <>
      <span class="ll-rank ll-num">{top.rank}</span>
      <TokenText text={top.text} />
      <Bar amount={top.probability} color={style?.color} />
      <span class="ll-num">{percent(top.probability)}</span>
      {ids && <span class="ll-num ll-id">{top.id}</span>}
    </>
  );
  if (!pinnable) return <div class="ll-top">{cells}</div>;
  return (
    <button
      type="button"
      class="ll-top"
      aria-pressed={Boolean(style)}
      title={`${style ? "Unpin" : "Pin"} ${plain(top.text)} (id ${top.id})`}
      onClick={() => state.togglePin(pin)}
    >
      {cells}
    </button>
  );
}

/** The button that writes on from a token, where something is written. */
function Branch({ state, cell, top }: { state: ViewState; cell: Cell; top: TopToken }) {
  const { branch } = state;
  if (!branch) return null;
  const missing = state.noBranch(cell, top.id);
  return (
    <button
      type="button"
      class="ll-icon ll-branch"
      disabled={Boolean(missing)}
      aria-label={`Write on from ${plain(top.text)}`}
      title={missing || `Write ${plain(top.text)} here and go on from there`}
      onClick={() => branch(cell, top.id)}
    >
      ↳
    </button>
  );
}

/** Entropy, divergence and the rank of what really follows. */
export function Numbers({ state, data, cell }: { state: ViewState; data: LensData; cell: Cell }) {
  const score = state.scores.value[data.lens];
  const { entropy, kl, rank, targetId } = data.numbers(cell.point, cell.position);
  return (
    <dl class="ll-numbers">
      <dt>entropy</dt>
      <dd>{nats(entropy)}</dd>
      <dt>KL to final</dt>
      <dd>{nats(kl)}</dd>
      {score && (
        <>
          <dt>{scoreWords(score)}</dt>
          <dd>
            {nats(score.values[cell.point] ?? Number.NaN)}
            {isWorse(score, cell.point) && <div class="ll-note">worse than a uniform guess</div>}
          </dd>
        </>
      )}
      {targetId >= 0 && !Number.isNaN(rank) && (
        <>
          <dt>
            rank of <TokenText text={data.tokenName(targetId)} />
          </dt>
          <dd>
            {whole(rank)} of {whole(data.meta.d_vocab)}
          </dd>
        </>
      )}
    </dl>
  );
}
