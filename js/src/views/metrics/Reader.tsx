import { compact } from "../../marks/numbers";
import { type MetricsData, placeName } from "./data";
import { fullLabel } from "./grouping";
import { visibleLines } from "./lines";
import type { MetricsState } from "./state";

/** All curves as one table, for screen readers; made when the run is over. */
export function Reader({ state, data }: { state: MetricsState; data: MetricsData }) {
  state.session.version.value;
  if (state.busy()) return null;
  const lines = state.panels.value.flatMap((panel) => visibleLines(state, panel));
  if (lines.length === 0) return null;
  return (
    <div class="ll-offscreen">
      <table>
        <caption>Metrics by layer</caption>
        <thead>
          <tr>
            <th scope="col">layer</th>
            {lines.map((line) => (
              <th scope="col" key={`${line.array.name}:${line.k}`}>
                {`${line.array.metric}: ${fullLabel(line, data.meta)}`}
              </th>
            ))}
          </tr>
        </thead>
        <tbody>
          {state.places.value.map((place) => (
            <tr key={place}>
              <th scope="row">{placeName(place)}</th>
              {lines.map((line) => (
                <td key={`${line.array.name}:${line.k}`}>
                  {compact(data.atLayer(line.array, place, line.k))}
                </td>
              ))}
            </tr>
          ))}
        </tbody>
      </table>
    </div>
  );
}
