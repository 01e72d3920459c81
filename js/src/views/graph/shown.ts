import type { GraphData, Link } from "./data";

/** More lines than this are no longer told apart, and slow the page. */
export const MOST_LINKS = 1200;

export interface Choice {
  share: number;
  errors: boolean;
  /** Ids that are drawn whatever they carry. */
  pins: readonly string[];
}

export interface Shown {
  nodes: number[];
  /** The weakest first, so that the strongest is drawn on top. */
  links: Link[];
  /** Links among these nodes that are left out. */
  more: number;
}

/** What is drawn: the ends of the graph, and the strongest nodes that together have the share. */
export function shownOf(data: GraphData, { share, errors, pins }: Choice): Shown {
  const pinned = new Set(pins.map((id) => data.node(id)));
  const whole = wholeOf(data);
  const nodes: number[] = [];
  for (const node of data.nodes) {
    const kind = data.kind(node);
    const end = kind === "token" || kind === "output";
    // The node that crosses the share still belongs to it.
    const before = data.cumulative(node) - data.influence(node) / whole;
    const strong = share >= 1 || before < share;
    if (pinned.has(node) || end || (strong && (errors || kind !== "error"))) nodes.push(node);
  }
  const kept = new Set(nodes);
  const among = data.links.filter(({ source, target }) => kept.has(source) && kept.has(target));
  among.sort((a, b) => a.influence - b.influence);
  const links = among.slice(-MOST_LINKS);
  return { nodes, links, more: among.length - links.length };
}

function wholeOf(data: GraphData): number {
  let sum = 0;
  for (const node of data.nodes) sum += data.influence(node);
  return sum || 1;
}
