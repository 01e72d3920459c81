import type { GraphMeta } from "../../wire/graph";
import type { RunStore } from "../../wire/store";

export type Kind = "token" | "feature" | "error" | "output" | "part" | "coordinate";

/** A link that has come, by its number. */
export interface Link {
  index: number;
  source: number;
  target: number;
  weight: number;
  /** The share of the answers that runs through it. */
  influence: number;
  /** What patching it really did; NaN where that was not tried. */
  effect: number;
}

/** One run's graph: what its nodes are, and what enters and leaves each. */
export class GraphData {
  readonly meta: GraphMeta;
  /** Those that have come; the others are room for what may. */
  readonly nodes: readonly number[];
  readonly links: readonly Link[];
  readonly inputs: readonly (readonly Link[])[];
  readonly outputs: readonly (readonly Link[])[];
  readonly #index: ReadonlyMap<string, number>;

  constructor(readonly store: RunStore<GraphMeta>) {
    this.meta = store.meta;
    const { ids } = store.meta.graph;
    const kinds = this.store.arrays.get("kind")?.data ?? [];
    this.nodes = ids.map((_, i) => i).filter((i) => (kinds[i] ?? -1) >= 0);
    this.#index = new Map(this.nodes.map((i) => [ids[i] ?? "", i]));
    this.links = this.#links();
    this.inputs = this.#around("target");
    this.outputs = this.#around("source");
  }

  #links(): Link[] {
    const [source, target, weight, influence, effect] = [
      "source",
      "target",
      "weight",
      "link_influence",
      "link_effect",
    ].map((name) => this.store.arrays.get(name)?.data ?? []);
    const found: Link[] = [];
    for (let index = 0; index < (weight?.length ?? 0); index++) {
      const link = {
        index,
        source: source?.[index] ?? -1,
        target: target?.[index] ?? -1,
        weight: weight?.[index] ?? Number.NaN,
        influence: influence?.[index] ?? 0,
        effect: effect?.[index] ?? Number.NaN,
      };
      // Links come from the first on; one that has not come yet has no source.
      if (link.source < 0) break;
      if (link.target >= 0 && Number.isFinite(link.weight)) found.push(link);
    }
    return found;
  }

  /** The links of each node at one of its ends, the strongest first. */
  #around(end: "source" | "target"): Link[][] {
    const found: Link[][] = this.meta.graph.ids.map(() => []);
    for (const link of this.links) found[link[end]]?.push(link);
    for (const links of found) links.sort((a, b) => Math.abs(b.weight) - Math.abs(a.weight));
    return found;
  }

  #at(name: string, node: number): number {
    return this.store.arrays.get(name)?.data[node] ?? Number.NaN;
  }

  /** Whether any node is of a kind. */
  has(kind: Kind): boolean {
    const number = this.meta.graph.kinds.indexOf(kind);
    return Array.from(this.store.arrays.get("kind")?.data ?? []).includes(number);
  }

  /** The node of an id; −1 where there is none. */
  node(id: string): number {
    return this.#index.get(id) ?? -1;
  }

  id(node: number): string {
    return this.meta.graph.ids[node] ?? "";
  }

  kind(node: number): Kind {
    return (this.meta.graph.kinds[this.#at("kind", node)] ?? "feature") as Kind;
  }

  /** −1 for tokens, the number of layers for outputs. */
  layer(node: number): number {
    return this.#at("node_layer", node);
  }

  position(node: number): number {
    return this.#at("node_position", node);
  }

  influence(node: number): number {
    return this.#at("influence", node) || 0;
  }

  /** The influence of this node and of all stronger ones, of the whole. */
  cumulative(node: number): number {
    return this.#at("cumulative_influence", node);
  }

  activation(node: number): number {
    return this.#at("activation", node);
  }

  probability(node: number): number {
    return this.#at("probability", node);
  }

  feature(node: number): number {
    return this.#at("feature", node);
  }

  /** The token at a position of the text. */
  token(position: number): string {
    return Object.values(this.meta.tokens)[0]?.[position]?.text ?? "";
  }

  words(node: number): string {
    return this.meta.graph.words[node] ?? "";
  }
}
