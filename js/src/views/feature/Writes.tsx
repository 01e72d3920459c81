import { compact } from "../../marks/numbers";
import { TokenText } from "../../marks/TokenText";
import { Part } from "../common/Part";
import type { FeatureData } from "./data";
import type { FeatureState } from "./state";

const SIDES = ["raises", "lowers"] as const;

/** The tokens that it raises and lowers by its weights, and the features that write the same. */
export function Writes({ state, data }: { state: FeatureState; data: FeatureData }) {
  return (
    <Part class="ll-feature-part" aria-label="What it writes">
      <h4>What it writes, by its weights</h4>
      <div class="ll-feature-tables">
        {data.has("effect_token") &&
          SIDES.map((name, side) => <Effects key={name} name={name} side={side} data={data} />)}
        <Near state={state} data={data} />
      </div>
    </Part>
  );
}

function Effects({ name, side, data }: { name: string; side: number; data: FeatureData }) {
  return (
    <table>
      <thead>
        <tr>
          <th scope="col">{name}</th>
          <th scope="col">logit</th>
          <th scope="col" title="Mean of random directions that are as long">
            random
          </th>
        </tr>
      </thead>
      <tbody>
        {data.effects(side).map(({ token, score, random }, i) => (
          <tr key={i}>
            <th scope="row">
              <TokenText text={token} />
            </th>
            <td class="ll-num">{compact(score, 3)}</td>
            <td class="ll-num ll-dim">{compact(random, 3)}</td>
          </tr>
        ))}
      </tbody>
    </table>
  );
}

function Near({ state, data }: { state: FeatureState; data: FeatureData }) {
  const near = data.near();
  const live = state.own.live.value;
  const meanings = state.own.traits.meanings.value;
  return (
    <table>
      <thead>
        <tr>
          <th scope="col">nearest</th>
          <th scope="col">cosine</th>
          <th scope="col" title="The rows nearest to a random direction">
            random
          </th>
          <th scope="col">{data.has("neighbour_token") ? "raises" : ""}</th>
        </tr>
      </thead>
      <tbody>
        {near.map(({ number, cosine, random, token }) => (
          <tr key={number}>
            <th scope="row">
              <button
                type="button"
                class="ll-plain"
                disabled={!live}
                title={meanings[String(number)] || "Its page"}
                onClick={() => state.choose(number)}
              >
                {number}
              </button>
            </th>
            <td class="ll-num">{compact(cosine, 2)}</td>
            <td class="ll-num ll-dim">{compact(random, 2)}</td>
            <td>{token && <TokenText text={token} />}</td>
          </tr>
        ))}
      </tbody>
    </table>
  );
}
