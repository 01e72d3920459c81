import { useLayoutEffect, useRef } from "preact/hooks";
import type { GraphData } from "./data";
import { LinkLines } from "./LinkLines";
import { beside, type Layout } from "./layout";
import { NodeMark } from "./NodeMark";
import { sentence } from "./names";
import type { GraphState } from "./state";

interface Props {
  state: GraphState;
  data: GraphData;
}

/** The drawing: rows of layers, columns of tokens, nodes and links. */
export function Drawing({ state, data }: Props) {
  const frame = useRoom(state);
  const layout = state.layout.value;
  if (!layout) return null;
  const { nodes, links } = state.drawn.value;
  return (
    <div class="ll-graph" ref={frame}>
      {/* biome-ignore lint/a11y/useSemanticElements: a fieldset cannot hold a drawing */}
      <svg
        width={layout.width}
        height={layout.height}
        role="group"
        aria-label={`Graph of ${nodes.length} nodes and ${links.length} links`}
        onPointerLeave={() => {
          state.pointed.value = -1;
        }}
        onKeyDown={(event) => moved(state, data, layout, event)}
      >
        <Axes data={data} layout={layout} />
        <LinkLines state={state} layout={layout} />
        <Nodes state={state} data={data} layout={layout} />
      </svg>
      <p class="ll-graph-says" aria-hidden="true">
        {state.pointed.value >= 0 ? sentence(data, state.pointed.value) : " "}
      </p>
    </div>
  );
}

function Nodes({ state, data, layout }: Props & { layout: Layout }) {
  const { nodes } = state.drawn.value;
  const chosen = state.chosen.value;
  // One node is reached by Tab, the others from it by arrows.
  const reached = layout.places.has(chosen) ? chosen : nodes.at(-1);
  return (
    <g>
      {nodes.map((node) => (
        <NodeMark
          key={data.id(node)}
          state={state}
          data={data}
          node={node}
          layout={layout}
          reached={node === reached}
        />
      ))}
    </g>
  );
}

/** The names of rows and columns. */
function Axes({ data, layout }: { data: GraphData; layout: Layout }) {
  const outputs = data.meta.n_layers;
  const first = data.has("coordinate") ? "embed" : "tokens";
  return (
    <g class="ll-graph-axes">
      {layout.rows.map(({ layer, y, height }) => (
        <g key={layer}>
          <text x={4} y={y + height / 2 + 4}>
            {layer < 0 ? first : layer >= outputs ? "answers" : `layer ${layer}`}
          </text>
          <path d={`M58 ${y + height + 6}H${layout.width}`} />
        </g>
      ))}
    </g>
  );
}

/** Keep the room of the drawing known, so that columns fill it. */
function useRoom(state: GraphState) {
  const frame = useRef<HTMLDivElement>(null);
  useLayoutEffect(() => {
    const element = frame.current;
    if (!element) return;
    const measure = () => {
      state.room.value = element.clientWidth;
    };
    const observer = new ResizeObserver(measure);
    observer.observe(element);
    measure();
    return () => observer.disconnect();
  }, [state]);
  return frame;
}

/** Arrows go from node to node, `i` and `o` along the strongest links. */
function moved(
  state: GraphState,
  data: GraphData,
  layout: Layout,
  event: KeyboardEvent & { currentTarget: SVGSVGElement },
): void {
  const from = state.chosen.peek() >= 0 ? state.chosen.peek() : state.pointed.peek();
  let to = from;
  if (event.key.startsWith("Arrow")) to = beside(layout, from, event.key);
  else if (event.key === "i") to = data.inputs[from]?.[0]?.source ?? from;
  else if (event.key === "o") to = data.outputs[from]?.[0]?.target ?? from;
  else if (event.key === "p") state.togglePin(from);
  else if (event.key === " ") state.choose(from);
  else if (event.key === "Enter") {
    state.choose(from);
    state.ask(from);
  } else return;
  event.preventDefault();
  event.stopPropagation();
  if (to === from) return;
  state.choose(to);
  event.currentTarget.querySelector<SVGGElement>(`[data-node="${to}"]`)?.focus();
}
