import { Bar } from "../common/Bar";
import { Part } from "../common/Part";
import type { FeatureData } from "./data";
import { percent } from "./names";

/** In which layers it is on, of a dictionary that reads several. */
export function Layers({ data }: { data: FeatureData }) {
  if (!data.has("layer_share")) return null;
  return (
    <Part class="ll-feature-part" aria-label="Where in the layers">
      <h4>Where in the layers</h4>
      <table class="ll-feature-layers">
        <thead>
          <tr>
            <th scope="col">layer</th>
            <th scope="col">share of its activation</th>
            <th scope="col" />
            <th scope="col">all features</th>
          </tr>
        </thead>
        <tbody>
          {data.meta.feature.layers.map((layer, i) => (
            <tr key={layer}>
              <th scope="row">{layer}</th>
              <td>
                <Bar amount={data.at("layer_share", i)} />
              </td>
              <td class="ll-num">{percent(data.at("layer_share", i))}</td>
              <td class="ll-num ll-dim">{percent(data.at("all_layer_share", i))}</td>
            </tr>
          ))}
        </tbody>
      </table>
    </Part>
  );
}
