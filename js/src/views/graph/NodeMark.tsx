import { compact } from "../../marks/numbers";
import { plain } from "../../marks/text";
import type { GraphData } from "./data";
import { type Layout, OUTPUT_WIDTH, PART_WIDTH, RADIUS } from "./layout";
import { sentence, shortName } from "./names";
import type { GraphState } from "./state";

interface Props {
  state: GraphState;
  data: GraphData;
  node: number;
  layout: Layout;
  /** Whether Tab reaches this one. */
  reached: boolean;
}

/** One node: a circle for a feature or a coordinate, a diamond for an error, words for tokens, answers and parts. */
export function NodeMark({ state, data, node, layout, reached }: Props) {
  const place = layout.places.get(node);
  if (!place) return null;
  const kind = data.kind(node);
  const chosen = state.chosen.value === node;
  const point = () => {
    state.pointed.value = node;
  };
  const names = ["ll-node", `ll-node-${kind}`];
  if (chosen) names.push("ll-chosen");
  if (state.pinned(node)) names.push("ll-pinned");
  return (
    // biome-ignore lint/a11y/useSemanticElements: a button cannot stand in a drawing
    <g
      class={names.join(" ")}
      role="button"
      tabindex={reached ? 0 : -1}
      data-node={node}
      aria-pressed={chosen}
      aria-label={sentence(data, node)}
      transform={`translate(${place.x} ${place.y})`}
      onPointerEnter={point}
      onFocus={point}
      onClick={() => state.choose(chosen ? -1 : node)}
      onDblClick={() => state.ask(node)}
    >
      <Mark data={data} node={node} wide={columnWidth(layout, data.position(node))} />
    </g>
  );
}

function Mark({ data, node, wide }: { data: GraphData; node: number; wide: number }) {
  const word = plain(shortName(data, node));
  switch (data.kind(node)) {
    case "token":
      return <Word text={fitted(word, wide)} width={wide - 4} />;
    case "output":
      return (
        <Word
          text={`${fitted(word, OUTPUT_WIDTH - 34)} ${compact(data.probability(node), 2)}`}
          width={OUTPUT_WIDTH}
        />
      );
    case "part":
      return <Word text={word} width={PART_WIDTH} />;
    case "error":
      return <path d={`M0-${RADIUS + 1} ${RADIUS + 1} 0 0 ${RADIUS + 1}-${RADIUS + 1} 0Z`} />;
    case "coordinate":
    case "feature":
      return <circle r={RADIUS} style={{ "--ll-strength": strength(data, node) }} />;
  }
}

function Word({ text, width }: { text: string; width: number }) {
  return (
    <>
      <rect x={-width / 2} y={-9} width={width} height={18} rx={4} />
      <text y={4}>{text}</text>
    </>
  );
}

/** How dark a feature is: by the root of its influence, of the strongest. */
function strength(data: GraphData, node: number): string {
  return `${Math.round(100 * Math.min(1, Math.sqrt(4 * data.influence(node))))}%`;
}

function columnWidth({ columns }: Layout, position: number): number {
  return columns.find((column) => column.position === position)?.width ?? 0;
}

/** About as much of a word as there is room for. */
function fitted(word: string, width: number): string {
  const most = Math.max(2, Math.floor(width / 7));
  return word.length > most ? `${word.slice(0, most - 1)}…` : word;
}
