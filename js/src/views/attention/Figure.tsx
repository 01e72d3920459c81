import { useCallback, useMemo } from "preact/hooks";
import { compact } from "../../marks/numbers";
import type { GridElements } from "../common/canvasgrid";
import { HeatGrid } from "../common/HeatGrid";
import { Legend } from "../common/Legend";
import { Part } from "../common/Part";
import { Frame } from "./frame";
import { LinesGrid } from "./lines";
import { MatrixGrid } from "./matrix";
import type { AttentionState, Shows } from "./state";

interface Props {
  state: AttentionState;
  shows: Shows;
}

/** One square of weights large: as lines, as a matrix, or both. */
export function Figure({ state, shows }: Props) {
  const frame = useMemo(() => new Frame(state, shows), [state, shows]);
  const mode = state.session.traits.mode.value;
  const title = titleOf(state, shows);
  return (
    <Part class="ll-square" aria-label={title}>
      <header class="ll-bar-head">
        <h3>{title}</h3>
        <span class="ll-grow" />
        <Legend scale={state.scale(shows)} />
      </header>
      <div class="ll-square-parts">
        {mode !== "matrix" && <Lines frame={frame} title={title} />}
        {mode !== "lines" && <Matrix frame={frame} title={title} />}
      </div>
    </Part>
  );
}

function titleOf(state: AttentionState, shows: Shows): string {
  const meta = state.meta.value;
  const heads = state.large.value;
  const all = heads.length === state.data.value?.first.n_heads;
  const reduce = state.session.traits.reduce.value;
  const several = all ? `all ${heads.length} heads` : `heads ${heads.join(", ")}`;
  const what =
    reduce === "one"
      ? `head ${heads[0]}`
      : `${reduce === "mean" ? "mean" : "largest"} of ${several}`;
  const whose =
    !meta?.other || !state.comparing()
      ? ""
      : { first: "first", second: meta.other.label || "second", difference: "second − first" }[
          shows
        ];
  return [`Layer ${state.layer.value}, ${what}`, whose].filter(Boolean).join(" · ");
}

function Lines({ frame, title }: { frame: Frame; title: string }) {
  const { state } = frame;
  const control = useCallback((elements: GridElements) => new LinesGrid(frame, elements), [frame]);
  const { query, key } = frame.cursor();
  const onKeys = state.side.value === "key";
  const at = onKeys ? key : query;
  const { queries, keys } = frame;
  const read = (position: number, column: number) => {
    if (column === 0)
      return best(position, keys.length, (i) => frame.value(position, i), frame, "to");
    return best(position, queries.length, (i) => frame.value(i, position), frame, "from");
  };
  return (
    <div class="ll-links">
      <div class="ll-links-head ll-dim">
        <span>query, looks</span>
        <span>key, is looked at</span>
      </div>
      <HeatGrid
        control={control}
        label={`Lines of ${title}: queries left, keys right. Arrow keys move, Enter pins.`}
        rows={Math.max(queries.length, keys.length)}
        columns={2}
        selected={at < 0 ? null : { point: at, position: onKeys ? 1 : 0 }}
        down
        rowName={(position) => String(position)}
        columnName={(column) => (column === 0 ? "query" : "key")}
        read={read}
      />
    </div>
  );
}

/** What is read out of a token: its name, and the strongest line from it or to it. */
function best(
  position: number,
  count: number,
  value: (other: number) => number,
  frame: Frame,
  way: "to" | "from",
): string {
  let top = -1;
  let most = 0;
  for (let other = 0; other < count; other++) {
    const size = Math.abs(value(other));
    if (size > most) [top, most] = [other, size];
  }
  const name = way === "to" ? frame.queryName(position) : frame.keyName(position);
  if (top < 0) return name;
  const end = way === "to" ? frame.keyName(top) : frame.queryName(top);
  return `${name}, most ${way} ${end}: ${compact(value(top), 3)}`;
}

function Matrix({ frame, title }: { frame: Frame; title: string }) {
  const control = useCallback((elements: GridElements) => new MatrixGrid(frame, elements), [frame]);
  const { query, key } = frame.cursor();
  return (
    <div class="ll-matrix">
      <HeatGrid
        control={control}
        label={`Matrix of ${title}: queries down, keys across. Arrow keys move, Enter pins the query.`}
        rows={frame.queries.length}
        columns={frame.keys.length}
        selected={query < 0 || key < 0 ? null : { point: query, position: key }}
        down
        rowName={(position) => frame.queryName(position)}
        columnName={(position) => frame.keyName(position)}
        read={(row, column) => compact(frame.value(row, column), 3)}
      />
    </div>
  );
}
