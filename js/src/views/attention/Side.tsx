import { Fragment } from "preact";
import { useEffect } from "preact/hooks";
import { compact } from "../../marks/numbers";
import { PromptToken } from "../../marks/TokenText";
import { sliceName } from "../../wire/attention";
import type { TokenInfo } from "../../wire/types";
import { Bar } from "../common/Bar";
import { Part } from "../common/Part";
import { type AttentionData, roleName } from "./data";
import { askExact, rowOf } from "./exact";
import type { AttentionState, Shows } from "./state";

interface Props {
  state: AttentionState;
  data: AttentionData;
}

/** How long a query is looked at before exact numbers are asked for, milliseconds. */
const REST = 60;
/** Keys that are listed. */
const LISTED = 10;

/** What the head does in this text, and what one query looks at in it. */
export function Side({ state, data }: Props) {
  state.session.version.value;
  return (
    <Part class="ll-side" aria-label="Head and query">
      <HeadFacts state={state} data={data} />
      <Looks state={state} data={data} />
    </Part>
  );
}

/** The roles of the head with their scores, and what they mean. */
function HeadFacts({ state, data }: Props) {
  state.session.version.value;
  const [layer, head] = [state.layer.value, state.head.value];
  const roles = data.roles(layer, head);
  const scores = data.scores(state.layerIndex.value, head);
  return (
    <div class="ll-head-facts">
      <h3>
        Layer {layer}, head {data.headName(head)}
      </h3>
      {roles.length > 0 ? (
        <ul>
          {roles.map(({ role, score }) => (
            <li key={role}>
              <span class="ll-role">{roleName(role)}</span>{" "}
              <span class="ll-num">{score.toFixed(2)}</span>
              <p class="ll-note">{state.terms()[role]}</p>
            </li>
          ))}
        </ul>
      ) : (
        data.meta.role_rule && <p class="ll-note">None of the roles that are looked for.</p>
      )}
      {data.meta.role_rule && <p class="ll-note">{data.meta.role_rule}</p>}
      {scores.length > 0 && (
        <dl class="ll-numbers">
          {scores.map(([name, value]) => (
            <Fragment key={name}>
              <dt>{roleName(name)}</dt>
              <dd>{compact(value, 3)}</dd>
            </Fragment>
          ))}
        </dl>
      )}
    </div>
  );
}

/** The keys that the selected query looks at most; of none selected, the last query's. */
function Looks({ state, data }: Props) {
  state.session.version.value;
  const shows = state.sides().at(-1) as Shows;
  const other = shows === "second";
  const queries = data.queries(other);
  const keys = data.keys(other);
  const chosen = state.session.traits.query.value;
  const query = chosen >= 0 && chosen < queries.length ? chosen : queries.length - 1;
  const complete = data.store.complete;
  const key = sliceName(state.key(other));
  const [head] = state.large.value;
  useEffect(() => {
    const timer = setTimeout(() => void askExact(state, shows, query), REST);
    return () => clearTimeout(timer);
  }, [state, shows, query, complete, key, head]);
  const row = rowOf(state, shows, query);
  if (!row) return null;
  // In a difference what is taken away tells as much as what is added.
  const size = (value: number) => (shows === "difference" ? Math.abs(value) : value);
  const found = Array.from(row.values, (value, key) => ({ key, value }))
    .filter(({ value }) => !Number.isNaN(value) && value !== 0)
    .sort((a, b) => size(b.value) - size(a.value))
    .slice(0, LISTED);
  const most = Math.max(...found.map(({ value }) => Math.abs(value)));
  return (
    <div class="ll-looks">
      <div class="ll-where">
        <PromptToken token={queries[query]} /> <span class="ll-dim">position {query} looks at</span>
      </div>
      <ol class="ll-tops">
        {found.map(({ key, value }) => (
          <li key={key}>
            <Key
              state={state}
              query={query}
              at={key}
              token={keys[key]}
              share={Math.abs(value) / most}
              exact={row.exact}
              value={value}
            />
          </li>
        ))}
      </ol>
      <p class="ll-note">{looksNote(found.length, row.exact)}</p>
    </div>
  );
}

function looksNote(found: number, exact: boolean): string {
  if (found === 0) return "Nothing that is drawn.";
  return exact ? "" : "To ±0.4 % of the head’s range.";
}

interface KeyProps {
  state: AttentionState;
  query: number;
  at: number;
  token: TokenInfo | undefined;
  share: number;
  value: number;
  exact: boolean;
}

function Key({ state, query, at, token, share, value, exact }: KeyProps) {
  return (
    <button
      type="button"
      class="ll-top"
      aria-pressed={state.session.traits.key.value === at}
      title="Select this pair"
      onClick={() => state.look({ query, key: at }, "now")}
    >
      <span class="ll-rank ll-num">{at}</span>
      <PromptToken token={token} />
      <Bar amount={share} color={value < 0 ? "var(--ll-negative)" : "var(--ll-accent)"} />
      <span class="ll-num">{compact(value, exact ? 3 : 2)}</span>
    </button>
  );
}
