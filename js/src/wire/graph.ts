import { ANSWER, type AnswerMeta, type AnswerTraits } from "./answer";
import type { WireSpec } from "./types";

export interface GraphMeta extends AnswerMeta {
  graph: {
    /** What a node is, in the order that `kind` counts. */
    kinds: string[];
    ids: string[];
    /** What someone called a node, or its token; "" where nobody did. */
    words: string[];
  };
}

export interface GraphTraits extends AnswerTraits {
  /** The node that is looked at, by its id; "" for none. */
  node: string;
  pins: string[];
  /** How much of the influence the nodes that are drawn have together. */
  share: number;
  /** Whether nodes of what is not explained are drawn. */
  errors: boolean;
}

export const GRAPH: WireSpec<GraphTraits, GraphMeta> = {
  ...ANSWER,
  defaults: { ...ANSWER.defaults, view: "graph", node: "", pins: [], share: 1, errors: true },
  isMeta: (meta): meta is GraphMeta => ANSWER.isMeta(meta) && "graph" in meta,
};
