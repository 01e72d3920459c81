import type { ComponentChildren } from "preact";
import { useCallback } from "preact/hooks";
import { compact } from "../../marks/numbers";
import type { ArrayInfo } from "../../wire/arrays";
import type { GridElements } from "../common/canvasgrid";
import { HeatGrid } from "../common/HeatGrid";
import { Legend } from "../common/Legend";
import { Part } from "../common/Part";
import { Switch } from "../common/Switch";
import { Terms } from "../common/Term";
import { Tip } from "../common/Tip";
import { ArrayGrid } from "./controller";
import { entryName } from "./data";
import type { GridData } from "./grid";
import { capital, titleOf } from "./grouping";
import { inBrackets } from "./Interval";
import type { ArraysState } from "./state";
import { Value } from "./Value";

/** More would not fit on a line. */
const MOST_BUTTONS = 4;

interface Props {
  state: ArraysState;
  /** What a view has to choose besides. */
  tools?: ComponentChildren;
  /** What a view shows of the selected cell besides. */
  children?: ComponentChildren;
}

/** One array at a time, two of its axes as cells. */
export function Grids({ state, tools, children }: Props) {
  state.session.version.value;
  const control = useCallback((elements: GridElements) => new ArrayGrid(state, elements), [state]);
  const grid = state.grid.value;
  if (!grid) return null;
  const { name } = grid.array;
  const kind = kindOf(grid);
  const title = capital(titleOf(grid.array, grid.data.meta));
  return (
    <Part class="ll-grids" aria-label="Matrices and heads">
      <header class="ll-bar-head">
        <h3>
          <Terms state={state} text={title} />
        </h3>
        <span class="ll-dim">{kind}</span>
        <span class="ll-grow" />
        {tools}
        <Chooser state={state} chosen={name} />
        <Entry state={state} grid={grid} />
        <Legend scale={state.scaleOf(grid)} values={grid.data.extent(name)} />
      </header>
      <div class="ll-main">
        <HeatGrid
          control={control}
          label={`${title}, ${kind}. Arrow keys move.`}
          rows={grid.rows}
          columns={grid.columns}
          selected={state.cell()}
          rowName={(point) => grid.rowName(point)}
          columnName={(position) => grid.columnName(position)}
          read={(point, position) => compact(grid.value(point, position))}
        />
        <Beside state={state} grid={grid}>
          {children}
        </Beside>
      </div>
      <GridTip state={state} grid={grid} />
    </Part>
  );
}

const PLURAL: Record<string, string> = { head: "heads", layer: "layers", position: "positions" };

function kindOf(grid: GridData): string {
  if (grid.square) return "layer by layer";
  const many = (dim: string) => {
    const name = dim === grid.down ? grid.downName : grid.data.axisName(dim);
    return PLURAL[name] ?? name;
  };
  return `${many(grid.down)} upwards, ${many(grid.across)} across`;
}

function Chooser({ state, chosen }: { state: ArraysState; chosen: string }) {
  const grids = state.grids.value;
  const choose = (focus: string) => state.session.write({ focus });
  if (grids.length < 2) return null;
  const choices = grids.map(({ name, long_name }) => ({
    value: name,
    label: name.replaceAll("_", " "),
    title: long_name,
  }));
  if (grids.length <= MOST_BUTTONS) {
    return <Switch state={state} label="Grid" value={chosen} choices={choices} choose={choose} />;
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

/** Which entry is shown of the axes that are not drawn. */
function Entry({ state, grid }: { state: ArraysState; grid: GridData }) {
  const { rest, data } = grid;
  const sizes = rest.map((dim) => data.size(dim));
  return (
    <>
      {rest.map((dim, axis) => {
        // The last runs fastest, as in the arrays.
        const step = sizes.slice(axis + 1).reduce((a, b) => a * b, 1);
        const size = sizes[axis] ?? 1;
        const at = Math.floor(state.entry.value / step) % size;
        return (
          <select
            key={dim}
            aria-label={data.axisName(dim)}
            value={at}
            onChange={(event) => {
              const to = Number(event.currentTarget.value);
              state.chooseEntry(state.entry.peek() + (to - at) * step);
            }}
          >
            {Array.from({ length: size }, (_, i) => (
              <option key={i} value={i}>
                {entryName(dim, data.meta.axes[dim], i)}
              </option>
            ))}
          </select>
        );
      })}
    </>
  );
}

interface BesideProps {
  state: ArraysState;
  grid: GridData;
  children: ComponentChildren;
}

/** What the grid says, the cell that is selected, and the groups of layers. */
function Beside({ state, grid, children }: BesideProps) {
  const { meta } = grid.data;
  const entry = meta.described[grid.array.metric];
  const cell = state.cell();
  const groups = meta.clusters[grid.array.name] ?? [];
  return (
    <Part class="ll-side" aria-label="About the grid">
      {cell && cell.position >= 0 && (
        <>
          <p class="ll-where">
            <b>{capital(grid.cellName(cell.point, cell.position))}</b>
            <span class="ll-num"> {written(grid, cell.point, cell.position)}</span>
          </p>
          <Companions grid={grid} index={grid.place(cell.point, cell.position)} />
        </>
      )}
      {children}
      {entry?.question && entry.question !== meta.question && (
        <p>
          <Terms state={state} text={entry.question} />
        </p>
      )}
      {entry?.formula && <p class="ll-formula">{entry.formula}</p>}
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
      {entry?.source && entry.source !== meta.source && <p class="ll-note">{entry.source}</p>}
    </Part>
  );
}

/** What other arrays of the same analysis say of a cell. */
function Companions({ grid, index }: { grid: GridData; index: readonly number[] }) {
  const { data } = grid;
  const companions = companionsOf(grid);
  if (companions.length === 0) return null;
  return (
    <dl class="ll-numbers">
      {companions.map((other) => (
        <div key={other.name}>
          <dt title={other.long_name}>{titleOf(other, data.meta)}</dt>
          <dd>
            <Value data={data} array={other} value={data.at(other.name, ...index)} />
          </dd>
        </div>
      ))}
    </dl>
  );
}

/** Arrays over the same axes that have any value. */
function companionsOf({ data, array }: GridData): ArrayInfo[] {
  const dims = array.dims.join();
  return data.meta.arrays.filter((other) => {
    const same = other.name !== array.name && other.dims.join() === dims;
    return same && data.extent(other.name) !== null;
  });
}

function written(grid: GridData, point: number, position: number): string {
  const value = compact(grid.value(point, position));
  const { rows, columns } = grid.size;
  if (point >= rows || position >= columns) return value;
  const interval = grid.data.interval(grid.array.name, ...grid.place(point, position));
  return interval ? `${value} ${inBrackets(interval)}` : value;
}

function GridTip({ state, grid }: { state: ArraysState; grid: GridData }) {
  const at = state.hover.value;
  const { point, position } = at?.cell ?? { point: -1, position: -1 };
  if (!at) return null;
  return (
    <Tip at={at}>
      <span class="ll-dim">{grid.cellName(point, position)}</span>
      <span class="ll-num">{written(grid, point, position)}</span>
    </Tip>
  );
}
