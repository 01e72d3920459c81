import { TokenText } from "../../marks/TokenText";
import type { Distribution } from "../../wire/patch";
import { percent } from "../common/format";

type Change = Distribution["tokens"][number];

/** More would not be read. */
const MOST = 8;

interface Props {
  tokens: readonly Change[];
  /** Tokens that are shown however little they change. */
  keep: readonly (number | undefined)[];
}

/** The first few, and after them those of the rest that are to be kept. */
export function chosen({ tokens, keep }: Props): Change[] {
  const kept = tokens.slice(MOST).filter((token) => keep.includes(token.id));
  return [...tokens.slice(0, MOST - kept.length), ...kept];
}

/** Each token's probability before and after, and the difference, as small bars. */
export function Changes(props: Props) {
  const shown = chosen(props);
  const largest = Math.max(0.01, ...shown.map((t) => Math.abs(t.after - t.before)));
  return (
    <table class="ll-changes">
      <thead>
        <tr>
          <th scope="col">next token</th>
          <th scope="col">before</th>
          <th scope="col">after</th>
          <th scope="col">change</th>
        </tr>
      </thead>
      <tbody>
        {shown.map((token) => (
          <Row key={token.id} token={token} largest={largest} />
        ))}
      </tbody>
    </table>
  );
}

function Row({ token, largest }: { token: Change; largest: number }) {
  const change = token.after - token.before;
  const points = (100 * change).toFixed(2).replace("-", "−");
  return (
    <tr title={`id ${token.id}`}>
      <th scope="row">
        <TokenText text={token.text} />
      </th>
      <td class="ll-num">
        {percent(token.before)}
        <Share amount={token.before} />
      </td>
      <td class="ll-num">
        {percent(token.after)}
        <Share amount={token.after} />
      </td>
      <td class="ll-num">
        {change > 0 ? `+${points}` : points}
        <Tilt amount={change / largest} />
      </td>
    </tr>
  );
}

function Share({ amount }: { amount: number }) {
  return (
    <span class="ll-bar" aria-hidden="true">
      <span style={{ width: `${Math.max(0.5, 100 * amount)}%` }} />
    </span>
  );
}

/** A bar from the middle: to the right where a token gained, to the left where it lost. */
function Tilt({ amount }: { amount: number }) {
  const half = 50 * Math.min(1, Math.abs(amount));
  const left = amount < 0 ? 50 - half : 50;
  return (
    <span class="ll-bar ll-tilt" aria-hidden="true">
      <span class={amount < 0 ? "ll-loss" : ""} style={{ width: `${half}%`, left: `${left}%` }} />
    </span>
  );
}
