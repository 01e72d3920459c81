import { useCallback } from "preact/hooks";
import { compact } from "../../marks/numbers";
import type { GridElements } from "../common/canvasgrid";
import { HeatGrid } from "../common/HeatGrid";
import { Legend } from "../common/Legend";
import { Switch } from "../common/Switch";
import { Tip } from "../common/Tip";
import { MetricGrid } from "./controller";
import { entryName, type MetricsData } from "./data";
import { GridData } from "./grid";
import { capital } from "./grouping";
import type { MetricsState } from "./state";

/** More would not fit on a line. */
const MOST_BUTTONS = 4;

interface Props {
  state: MetricsState;
  data: MetricsData;
}

/** One matrix or head grid at a time. */
export function Grids({ state, data }: Props) {
  state.session.version.value;
  const control = useCallback((elements: GridElements) => new MetricGrid(state, elements), [state]);
  const array = state.grid.value;
  if (!array) return null;
  const grid = new GridData(data, array, state.entry.value);
  const { layer, head } = state.session.traits;
  const selected = grid.cellOf(layer.value, head.value, state.column.value);
  const across = grid.byHead ? "heads" : grid.acrossName;
  const kind = grid.square ? "layer by layer" : `layers upwards, ${across} across`;
  const title = gridTitle(array.long_name, array.name);
  return (
    <section class="ll-grids" aria-label="Matrices and heads">
      <header class="ll-bar-head">
        <h3>{title}</h3>
        <span class="ll-dim">{kind}</span>
        <span class="ll-grow" />
        <Chooser state={state} />
        <Entry state={state} grid={grid} />
        <Legend scale={grid.scale(state)} />
      </header>
      <div class="ll-main">
        <HeatGrid
          control={control}
          label={`${title}, ${kind}. Arrow keys move.`}
          rows={grid.rows}
          columns={grid.columns}
          selected={selected}
          rowName={(point) => grid.rowName(point)}
          columnName={(position) => grid.columnName(position)}
          read={(point, position) => compact(grid.value(point, position))}
        />
        <Beside state={state} grid={grid} />
      </div>
      <GridTip state={state} grid={grid} />
    </section>
  );
}

function gridTitle(longName: string, name: string): string {
  return capital(longName || name.replaceAll("_", " "));
}

function Chooser({ state }: { state: MetricsState }) {
  const grids = state.grids.value;
  const chosen = state.grid.value?.name ?? "";
  const choose = (focus: string) => state.session.write({ focus });
  if (grids.length < 2) return null;
  const choices = grids.map(({ name, long_name }) => ({
    value: name,
    label: name.replaceAll("_", " "),
    title: long_name,
  }));
  if (grids.length <= MOST_BUTTONS) {
    return <Switch label="Grid" value={chosen} choices={choices} choose={choose} />;
  }
  return (
    <select
      aria-label="Grid"
      value={chosen}
      onChange={(event) => choose(event.currentTarget.value)}
    >
      {choices.map(({ value, label }) => (
        <option key={value} value={value}>
          {label}
        </option>
      ))}
    </select>
  );
}

/** Which entry of a third axis is shown. */
function Entry({ state, grid }: { state: MetricsState; grid: GridData }) {
  const { third, data } = grid;
  if (third === null) return null;
  const axis = data.meta.axes[third];
  return (
    <select
      aria-label={axis?.long_name ?? third}
      value={state.entry.value}
      onChange={(event) => {
        state.chosenEntry.value = Number(event.currentTarget.value);
      }}
    >
      {Array.from({ length: data.size(third) }, (_, i) => (
        <option key={i} value={i}>
          {entryName(third, axis, i)}
        </option>
      ))}
    </select>
  );
}

/** What the grid says, the cell that is selected, and the groups of layers. */
function Beside({ state, grid }: { state: MetricsState; grid: GridData }) {
  const { layer, head } = state.session.traits;
  const { meta } = grid.data;
  const entry = meta.described[grid.array.metric];
  const cell = grid.cellOf(layer.value, head.value, state.column.value);
  const groups = meta.clusters[grid.array.name] ?? [];
  return (
    <section class="ll-side" aria-label="About the grid">
      {cell && cell.position >= 0 && (
        <p class="ll-where">
          <b>{capital(grid.cellName(cell.point, cell.position))}</b>
          <span class="ll-num"> {written(grid, cell.point, cell.position)}</span>
        </p>
      )}
      {entry && <p>{entry.question}</p>}
      {entry && <p class="ll-formula">{entry.formula}</p>}
      {groups.length > 1 && (
        <div class="ll-groups">
          <h4>Groups of layers</h4>
          <ul>
            {groups.map(([first, last]) => (
              <li key={first}>
                {first === last
                  ? grid.rowName(first)
                  : `${grid.rowName(first)} – ${grid.rowName(last)}`}
              </li>
            ))}
          </ul>
        </div>
      )}
      {entry && <p class="ll-note">{entry.source}</p>}
    </section>
  );
}

function written(grid: GridData, point: number, position: number): string {
  const value = compact(grid.value(point, position));
  const interval = grid.data.interval(grid.array.name, ...grid.place(point, position));
  if (!interval) return value;
  return `${value} [${compact(interval.low, 3)}, ${compact(interval.high, 3)}]`;
}

function GridTip({ state, grid }: { state: MetricsState; grid: GridData }) {
  const at = state.hover.value;
  const { point, position } = at?.cell ?? { point: -1, position: -1 };
  return (
    <Tip at={at}>
      <span class="ll-dim">{grid.cellName(point, position)}</span>
      <span class="ll-num">{written(grid, point, position)}</span>
    </Tip>
  );
}
