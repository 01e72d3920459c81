import { useMemo } from "preact/hooks";
import { freeAxis } from "../../marks/axes";
import { compact } from "../../marks/numbers";
import { TokenText } from "../../marks/TokenText";
import { lineStyle } from "../../theme/palette";
import type { ArrayInfo } from "../../wire/metrics";
import { whole } from "../common/format";
import { Plot } from "../common/Plot";
import { type MetricsData, unitName } from "./data";
import { capital } from "./grouping";
import type { MetricsState } from "./state";

const HEIGHT = 150;

interface Props {
  state: MetricsState;
  data: MetricsData;
}

/** What is not by layer: single numbers, curves over an axis of their own; and tables of one layer. */
export function Singles({ state, data }: Props) {
  state.session.version.value;
  const { arrays } = data.meta;
  const scalars = arrays.filter(({ kind }) => kind === "scalar");
  const profiles = arrays.filter(({ kind, dtype }) => kind === "profile" && dtype === "float");
  return (
    <>
      {(profiles.length > 0 || scalars.length > 0) && (
        <div class="ll-panels">
          {profiles.map((array) => (
            <Profile key={array.name} state={state} data={data} array={array} />
          ))}
          {scalars.length > 0 && <Scalars data={data} scalars={scalars} />}
        </div>
      )}
      <Tables state={state} data={data} />
    </>
  );
}

function Scalars({ data, scalars }: { data: MetricsData; scalars: readonly ArrayInfo[] }) {
  return (
    <section class="ll-panel" aria-label="Single numbers">
      <header>
        <h3>Single numbers</h3>
      </header>
      <dl class="ll-numbers">
        {scalars.map(({ name, long_name, units }) => (
          <div key={name}>
            <dt title={name}>{long_name || name.replaceAll("_", " ")}</dt>
            <dd>
              {compact(data.at(name))} <span class="ll-dim">{unitName(units)}</span>
            </dd>
          </div>
        ))}
      </dl>
    </section>
  );
}

function Profile({ state, data, array }: Props & { array: ArrayInfo }) {
  const version = state.session.version.value;
  const palette = state.palette.value;
  const dim = array.dims[0] ?? "";
  const axis = data.meta.axes[dim];
  const input = useMemo(() => {
    const places = Array.from({ length: data.size(dim) }, (_, i) => i);
    const low = places.map((i) => data.at(`${array.name}_low`, i));
    const high = places.map((i) => data.at(`${array.name}_high`, i));
    return {
      places,
      label: (place: number) => data.label(dim, place),
      lines: [
        {
          style: lineStyle(0),
          values: places.map((i) => data.at(array.name, i)),
          band: array.interval ? { low, high } : undefined,
        },
      ],
      axis: freeAxis(),
      palette,
      height: HEIGHT,
    };
  }, [data, array, dim, palette, version]);
  return (
    <section class="ll-panel" aria-label={array.long_name}>
      <header>
        <h3>{capital(array.long_name || array.name.replaceAll("_", " "))}</h3>
        <span class="ll-dim">{unitName(array.units)}</span>
      </header>
      <p class="ll-question">by {axis?.long_name ?? dim}</p>
      <Plot input={input} mark={null} choose={() => {}} />
    </section>
  );
}

/** For the selected layer: what is known of each of its largest activations, and the like. */
function Tables({ state, data }: Props) {
  const layer = state.selected();
  if (layer === null) return null;
  const groups = new Map<string, ArrayInfo[]>();
  for (const array of data.meta.arrays) {
    const { kind, dims, dtype, other } = array;
    if (other || dims.length !== 2 || (kind !== "table" && kind !== "lines")) continue;
    if (dtype === "float" && kind === "table") continue;
    const key = `${array.metric}|${dims.join()}`;
    groups.set(key, [...(groups.get(key) ?? []), array]);
  }
  return (
    <>
      {[...groups].map(([key, columns]) => (
        <Table key={key} data={data} columns={columns} layer={layer} />
      ))}
    </>
  );
}

interface TableProps {
  data: MetricsData;
  columns: readonly ArrayInfo[];
  layer: number;
}

function Table({ data, columns, layer }: TableProps) {
  const [first] = columns;
  const [down, across] = first?.dims ?? [];
  if (!first || !down || !across || columns.every(({ dtype }) => dtype === "float")) return null;
  const at = data.index(down, layer);
  if (at < 0) return null;
  const name = data.array(first.metric)?.long_name || first.metric.replaceAll("_", " ");
  return (
    <section class="ll-layer-table" aria-label={`${capital(name)} of layer ${layer}`}>
      <header class="ll-bar-head">
        <h3>{capital(name)}</h3>
        <span class="ll-dim">of layer {layer}</span>
      </header>
      <table>
        <thead>
          <tr>
            <th scope="col">{data.meta.axes[across]?.long_name ?? across}</th>
            {columns.map((array) => (
              <th scope="col" key={array.name} title={array.long_name}>
                {shortName(array)}
              </th>
            ))}
          </tr>
        </thead>
        <tbody>
          {Array.from({ length: data.size(across) }, (_, k) => (
            <tr key={k}>
              <th scope="row">{data.label(across, k)}</th>
              {columns.map((array) => (
                <td key={array.name} class="ll-num">
                  <Value data={data} array={array} value={data.at(array.name, at, k)} />
                </td>
              ))}
            </tr>
          ))}
        </tbody>
      </table>
    </section>
  );
}

function shortName({ name, metric }: ArrayInfo): string {
  return (name === metric ? metric : name.slice(metric.length + 1)).replaceAll("_", " ");
}

function Value({ data, array, value }: { data: MetricsData; array: ArrayInfo; value: number }) {
  if (array.dtype === "token") return <TokenText text={data.tokenName(value)} />;
  if (array.dtype === "int") return <>{value < 0 ? "–" : whole(value)}</>;
  return <>{compact(value)}</>;
}
