import { compact } from "../../marks/numbers";
import { TokenText } from "../../marks/TokenText";
import { Part } from "../common/Part";
import type { GraphData, Link } from "./data";
import { percent, placeName, shortName } from "./names";
import type { GraphState } from "./state";

const MOST = 12;

interface Props {
  state: GraphState;
  data: GraphData;
}

/** What the chosen node is, what enters it, and what leaves it. */
export function Neighbours({ state, data }: Props) {
  const node = state.chosen.value;
  if (node < 0) return null;
  const opens = state.session.live.value && Boolean(state.meta.value?.opens);
  return (
    <Part class="ll-neighbours" aria-label="The chosen node">
      <div class="ll-float-head">
        <h4>
          <TokenText text={shortName(data, node)} />{" "}
          <span class="ll-dim">{placeName(data, node)}</span>
        </h4>
        {opens && (
          <button type="button" onClick={() => state.ask(node)}>
            Open
          </button>
        )}
        <button
          type="button"
          aria-pressed={state.pinned(node)}
          title="It stays drawn, whatever its influence"
          onClick={() => state.togglePin(node)}
        >
          Pin
        </button>
        <button
          type="button"
          class="ll-icon"
          aria-label="Close"
          title="Close (Escape)"
          onClick={() => state.choose(-1)}
        >
          ✕
        </button>
      </div>
      <Facts data={data} node={node} />
      <div class="ll-cell-tables">
        <Ends
          state={state}
          data={data}
          links={data.inputs[node] ?? []}
          end="source"
          title="What enters it"
        />
        <Ends
          state={state}
          data={data}
          links={data.outputs[node] ?? []}
          end="target"
          title="What it leads to"
        />
      </div>
    </Part>
  );
}

function Facts({ data, node }: { data: GraphData; node: number }) {
  const facts: [string, string][] = [];
  const words = data.words(node);
  if (data.kind(node) === "feature" && words) facts.push(["label", words]);
  const activation = data.activation(node);
  if (Number.isFinite(activation)) facts.push(["activation", compact(activation)]);
  const probability = data.probability(node);
  if (Number.isFinite(probability)) facts.push(["probability", compact(probability)]);
  else facts.push(["share of the answers", percent(data.influence(node))]);
  return <p class="ll-dim">{facts.map(([name, value]) => `${name}: ${value}`).join(" · ")}</p>;
}

interface EndsProps extends Props {
  links: readonly Link[];
  end: "source" | "target";
  title: string;
}

function Ends({ state, data, links, end, title }: EndsProps) {
  if (links.length === 0) return null;
  const listed = links.slice(0, MOST);
  const patched = listed.some((link) => Number.isFinite(link.effect));
  return (
    <table>
      <caption>
        {title}
        {links.length > MOST && ` (${MOST} of ${links.length}, the strongest)`}
      </caption>
      <thead>
        <tr>
          <th scope="col">node</th>
          <th scope="col">where</th>
          <th scope="col">{patched ? "estimated" : "adds"}</th>
          {patched && <th scope="col">patched</th>}
          <th scope="col">carries</th>
        </tr>
      </thead>
      <tbody>
        {listed.map((link) => (
          <tr key={link.index}>
            <th scope="row">
              <button type="button" class="ll-plain" onClick={() => state.choose(link[end])}>
                <TokenText text={shortName(data, link[end])} />
              </button>
            </th>
            <td>{placeName(data, link[end])}</td>
            <td class="ll-num">{compact(link.weight, 3)}</td>
            {patched && (
              <td class="ll-num">{Number.isFinite(link.effect) ? compact(link.effect, 3) : ""}</td>
            )}
            <td class="ll-num">{percent(link.influence)}</td>
          </tr>
        ))}
      </tbody>
    </table>
  );
}
