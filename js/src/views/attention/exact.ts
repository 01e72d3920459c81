import { type SliceKey, sliceName } from "../../wire/attention";
import { decodeArray, toBytes } from "../../wire/decode";
import type { AttentionState, Shows } from "./state";

/** One row of weights of one head: exact, or as well as a byte holds it. */
export interface Row {
  values: ArrayLike<number>;
  exact: boolean;
}

/** The rows that belong to a square: of one head, of one text or of both. */
function rowsOf(state: AttentionState, shows: Shows): SliceKey[] {
  if (state.large.value.length !== 1) return [];
  if (shows === "difference") return [state.key(false), state.key(true)];
  return [state.key(shows === "second")];
}

function nameOf(key: SliceKey, head: number, query: number): string {
  return `exact ${sliceName(key)} ${head} ${query}`;
}

/** Ask for the exact weights of one query, once; while a run goes on there are none. */
export async function askExact(state: AttentionState, shows: Shows, query: number): Promise<void> {
  const { live, store } = state.session;
  if (!live.peek() || !store.peek()?.complete || query < 0) return;
  const [head] = state.large.peek();
  for (const key of rowsOf(state, shows)) {
    await state.session.ask(nameOf(key, head as number, query), "exact", { ...key, head, query });
  }
}

/** The weights of one query as they are drawn; exact where they have come. */
export function rowOf(state: AttentionState, shows: Shows, query: number): Row | null {
  const square = state.squares[shows].value;
  if (!square || query < 0 || query >= square.queries) return null;
  const drawn = square.values.subarray(query * square.keys, (query + 1) * square.keys);
  const rows = rowsOf(state, shows).map((key) => exactRow(state, key, query, square.keys));
  const [first, second] = rows;
  if (!first || rows.some((row) => row === null)) return { values: drawn, exact: false };
  const whole = second ? first.map((value, key) => (second[key] as number) - value) : first;
  // What is left out or cannot be seen stays so.
  return {
    values: whole.map((v, key) => (Number.isNaN(drawn[key]) ? Number.NaN : v)),
    exact: true,
  };
}

function exactRow(
  state: AttentionState,
  key: SliceKey,
  query: number,
  keys: number,
): Float32Array | null {
  const [head] = state.large.value;
  const answer = state.session.answers.value.get(nameOf(key, head as number, query));
  const bytes = answer && "reply" in answer ? answer.reply.buffers[0] : undefined;
  if (!bytes) return null;
  return decodeArray("float32", toBytes(bytes), keys) as Float32Array;
}
