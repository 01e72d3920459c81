import type { ArrayInfo } from "../../wire/arrays";
import { Part } from "../common/Part";
import { Terms } from "../common/Term";
import { type ArraysData, unitName } from "./data";
import { capital, titleOf } from "./grouping";
import { Interval } from "./Interval";
import type { ArraysState } from "./state";
import { Value } from "./Value";

interface Props {
  state: ArraysState;
  data: ArraysData;
}

/** Single numbers, and tables of what is neither drawn as curves nor as cells. */
export function Singles({ state, data }: Props) {
  state.session.version.value;
  const scalars = data.meta.arrays.filter(({ dims }) => dims.length === 0);
  return (
    <>
      {scalars.length > 0 && (
        <div class="ll-panels">
          <Scalars state={state} data={data} scalars={scalars} />
        </div>
      )}
      <Tables state={state} data={data} />
    </>
  );
}

function Scalars({ state, data, scalars }: Props & { scalars: readonly ArrayInfo[] }) {
  return (
    <Part class="ll-panel" aria-label="Single numbers">
      <header>
        <h3>Single numbers</h3>
      </header>
      <dl class="ll-numbers">
        {scalars.map((array) => (
          <div key={array.name}>
            <dt title={array.name}>
              <Terms state={state} text={titleOf(array, data.meta)} />
            </dt>
            <dd>
              <Value data={data} array={array} value={data.at(array.name)} />
              <Interval ends={data.interval(array.name)} />{" "}
              <span class="ll-dim">{unitName(array.units)}</span>
            </dd>
          </div>
        ))}
      </dl>
    </Part>
  );
}

/** What is known of each entry of an axis, or of each one at the selected layer, and the like. */
function Tables({ state, data }: Props) {
  // Its props stay the same objects while numbers come: only this draws them.
  state.session.version.value;
  const groups = new Map<string, ArrayInfo[]>();
  for (const array of data.meta.arrays) {
    const key = state.tableOf(array);
    if (key) groups.set(key, [...(groups.get(key) ?? []), array]);
  }
  return (
    <>
      {[...groups].map(([key, columns]) => (
        <Table key={key} state={state} data={data} columns={columns} />
      ))}
    </>
  );
}

/** Arrays of one or two axes: rows are entries of the last, at the selected entry of the first. */
function Table({ state, data, columns }: Props & { columns: readonly ArrayInfo[] }) {
  const [first] = columns;
  const [down, across = down] = first?.dims ?? [];
  if (!first || !down || !across) return null;
  // What has a line for each entry is drawn already.
  if (down !== across && columns.every(({ dtype }) => dtype === "float")) return null;
  const chosen = state.at(down);
  // A layer is chosen in other views too; of an axis of its own the first entry is as good as any.
  const fixed = down === across ? null : data.role(down) ? chosen : Math.max(0, chosen);
  if (fixed === -1) return null;
  const name = capital(data.array(first.metric)?.long_name || first.metric.replaceAll("_", " "));
  const of = fixed === null ? "" : `of ${data.axisName(down)} ${data.label(down, fixed)}`;
  const index = (k: number) => (fixed === null ? [k] : [fixed, k]);
  const at = ({ name }: ArrayInfo, k: number) => data.at(name, ...index(k));
  const rows = Array.from({ length: data.size(across) }, (_, k) => k).filter((k) =>
    columns.some((array) => !Number.isNaN(at(array, k))),
  );
  return (
    <Part class="ll-layer-table" aria-label={[name, of].filter(Boolean).join(" ")}>
      <header class="ll-bar-head">
        <h3>
          <Terms state={state} text={name} />
        </h3>
        <span class="ll-dim">{of}</span>
      </header>
      <table>
        <thead>
          <tr>
            <th scope="col">{data.axisName(across)}</th>
            {columns.map((array) => (
              <th scope="col" key={array.name} title={array.long_name}>
                {shortName(array)}
              </th>
            ))}
          </tr>
        </thead>
        <tbody>
          {rows.map((k) => (
            <tr key={k}>
              <th scope="row">
                {state.opens ? (
                  <button
                    type="button"
                    class="ll-plain"
                    onClick={() => state.open(first, index(k))}
                  >
                    {data.label(across, k)}
                  </button>
                ) : (
                  data.label(across, k)
                )}
              </th>
              {columns.map((array) => (
                <td key={array.name} class="ll-num">
                  <Value data={data} array={array} value={at(array, k)} />
                  <Interval ends={data.interval(array.name, ...index(k))} />
                </td>
              ))}
            </tr>
          ))}
        </tbody>
      </table>
    </Part>
  );
}

function shortName({ name, metric, other }: ArrayInfo): string {
  const own = name.replace(/^other\./, "");
  const short = (own === metric ? metric : own.slice(metric.length + 1)).replaceAll("_", " ");
  return other ? `${short} · other` : short;
}
