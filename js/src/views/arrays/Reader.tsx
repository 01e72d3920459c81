import { compact } from "../../marks/numbers";
import { type ArraysData, placeName } from "./data";
import { fullLabel, lineName, type Panel } from "./grouping";
import { placesOf, visibleLines } from "./lines";
import type { ArraysState } from "./state";

interface Props {
  state: ArraysState;
  data: ArraysData;
}

/** All curves as tables, one for each axis, for screen readers; made when the run is over. */
export function Reader({ state, data }: Props) {
  state.session.version.value;
  if (state.busy()) return null;
  const groups = new Map<string, Panel[]>();
  for (const panel of state.panels.value) {
    groups.set(panel.dim, [...(groups.get(panel.dim) ?? []), panel]);
  }
  return (
    <>
      {[...groups].map(([dim, panels]) => (
        <Numbers key={dim} state={state} data={data} dim={dim} panels={panels} />
      ))}
    </>
  );
}

/** The curves that share an axis. */
function Numbers({ state, data, dim, panels }: Props & { dim: string; panels: Panel[] }) {
  const lines = panels.flatMap((panel) => visibleLines(state, panel));
  const [first] = panels;
  if (!first || lines.length === 0) return null;
  const axis = dim ? data.axisName(dim) : "layer";
  return (
    <table>
      <caption>Curves by {axis}</caption>
      <thead>
        <tr>
          <th scope="col">{axis}</th>
          {lines.map((line) => (
            <th scope="col" key={lineName(line)}>
              {`${line.array.metric}: ${fullLabel(line, data.meta)}`}
            </th>
          ))}
        </tr>
      </thead>
      <tbody>
        {placesOf(state, data, first).map((place) => (
          <tr key={place}>
            <th scope="row">{dim ? data.label(dim, place) : placeName(place)}</th>
            {lines.map((line) => (
              <td key={lineName(line)}>{compact(data.atPlace(line.array, place, line.k))}</td>
            ))}
          </tr>
        ))}
      </tbody>
    </table>
  );
}
