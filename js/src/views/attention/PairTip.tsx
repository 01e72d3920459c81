import { useSignalEffect } from "@preact/signals";
import { compact } from "../../marks/numbers";
import { PromptToken } from "../../marks/TokenText";
import { Tip } from "../common/Tip";
import { askExact, rowOf } from "./exact";
import type { AttentionState } from "./state";

/** How long the pointer rests before an exact number is asked for, milliseconds. */
const REST = 60;

/** The pair under the pointer in the matrix, and its weight. */
export function PairTip({ state }: { state: AttentionState }) {
  useSignalEffect(() => {
    const tip = state.tip.value;
    if (!tip) return;
    const timer = setTimeout(() => void askExact(state, tip.shows, tip.spot.query), REST);
    return () => clearTimeout(timer);
  });
  const tip = state.tip.value;
  const data = state.data.value;
  if (!tip || !data) return null;
  const { query, key } = tip.spot;
  const other = tip.shows === "second";
  const row = rowOf(state, tip.shows, query);
  const value = row?.values[key] ?? Number.NaN;
  return (
    <Tip at={tip.at}>
      <span>
        <PromptToken token={data.queries(other)[query]} />{" "}
        <span class="ll-dim">{query} looks at</span> <PromptToken token={data.keys(other)[key]} />{" "}
        <span class="ll-dim">{key}</span>
      </span>
      <span class="ll-num">
        {Number.isNaN(value)
          ? reason(state, other, query, key)
          : written(value, row?.exact ?? false)}
      </span>
    </Tip>
  );
}

/** A number that came as a byte is known to half a step of 255, of its root at the most. */
export function written(value: number, exact: boolean): string {
  return exact ? compact(value, 5) : `${compact(value, 2)} (±0.4 % of the range)`;
}

function reason(state: AttentionState, other: boolean, query: number, key: number): string {
  const slice = state.slice(other);
  if (!slice) return "not come yet";
  if (key >= slice.seen(query)) return "cannot be seen: it comes later";
  return state.left(other)?.[key] ? "left out" : "–";
}
