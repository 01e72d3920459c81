import type { GraphData } from "./data";
import { percent } from "./names";
import { MOST_LINKS } from "./shown";
import type { GraphState } from "./state";

/** How much of the graph is drawn, and how much that is. */
export function Controls({ state, data }: { state: GraphState; data: GraphData }) {
  const { traits } = state.own;
  const { nodes, links, more } = state.drawn.value;
  const share = traits.share.value;
  return (
    <div class="ll-graph-bar">
      <label>
        Influence drawn
        <input
          type="range"
          min={0}
          max={1}
          step={0.02}
          value={share}
          aria-valuetext={percent(share)}
          onInput={(event) => state.own.write({ share: Number(event.currentTarget.value) }, "soon")}
        />
        <output class="ll-num">{percent(share)}</output>
      </label>
      {data.has("error") && (
        <button
          type="button"
          aria-pressed={traits.errors.value}
          title="Whether what the features do not explain is drawn"
          onClick={() => state.own.write({ errors: !traits.errors.peek() })}
        >
          Errors
        </button>
      )}
      <span class="ll-dim ll-num" role="status">
        {nodes.length} of {data.nodes.length} nodes, {links.length} of {data.links.length} links
        {more > 0 && ` (the ${MOST_LINKS} strongest among these nodes)`}
      </span>
      <span class="ll-grow" />
      <Key data={data} />
    </div>
  );
}

/** Kinds of nodes that are drawn as circles. */
const CIRCLES = ["feature", "coordinate"] as const;

/** What marks and colours mean. */
function Key({ data }: { data: GraphData }) {
  return (
    <ul class="ll-graph-key" aria-label="Key">
      {CIRCLES.filter((kind) => data.has(kind)).map((kind) => (
        <li key={kind}>
          <svg viewBox="-7 -7 14 14" aria-hidden="true">
            <circle r="5" />
          </svg>
          {kind}
        </li>
      ))}
      {data.has("error") && (
        <li>
          <svg viewBox="-7 -7 14 14" aria-hidden="true">
            <path d="M0-6 6 0 0 6-6 0Z" class="ll-node-error" />
          </svg>
          error
        </li>
      )}
      <li>
        <svg viewBox="-7 -7 14 14" aria-hidden="true">
          <path d="M-7 0H7" class="ll-link ll-adds" />
        </svg>
        adds
      </li>
      {data.links.some(({ weight }) => weight < 0) && (
        <li>
          <svg viewBox="-7 -7 14 14" aria-hidden="true">
            <path d="M-7 0H7" class="ll-link ll-takes" />
          </svg>
          takes away
        </li>
      )}
    </ul>
  );
}
