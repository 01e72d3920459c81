import type { PackedSlice } from "./slice";
import { COMMON, type CommonMeta, type CommonTraits, type TokenInfo, type WireSpec } from "./types";

export type Weighting = "pattern" | "value" | "norm" | "scores";
/** One head, or the mean or the largest weight of the heads that are on. */
export type Reduce = "one" | "mean" | "max";
export type Mode = "lines" | "matrix" | "both";
export type Side = "query" | "key";
/** Which of two texts or models is drawn large. */
export type Compare = "first" | "second" | "beside" | "difference";

/** What a head does in this text, above the threshold of its role. */
export interface Role {
  layer: number;
  head: number;
  role: string;
  score: number;
}

/** Attention of one kind between two rows of tokens. */
export interface Part {
  tokens: TokenInfo[];
  key_tokens: TokenInfo[];
  /** The layers that were computed. */
  layers: number[];
  n_heads: number;
  /** The group of each head: heads of one group share keys and values. */
  kv_groups: number[];
  /** For each key: whether it begins the text or parts it. */
  special: boolean[];
}

/** A second text or model beside the first. */
export interface OtherText extends Part {
  label: string;
  model: string;
  text: string;
}

/** What the first part has stands at the top too. */
export interface AttentionMeta extends CommonMeta, Part {
  parts: string[];
  /** Each part, where there are several. */
  by_part: Record<string, Part>;
  weightings: Weighting[];
  weightings_possible: Weighting[];
  /** Empty until the run has ended. */
  roles: Role[];
  role_rule: string;
  /** Names of the heads, where they have any. */
  head_names: string[];
  other: OtherText | null;
  /** In a snapshot: the weights of its layers by `sliceName`, and what was left out. */
  slices?: Record<string, PackedSlice>;
  kept_words?: string;
}

/** A token whose weights stay shown alone; a query where no side is said. */
export interface TokenPin {
  position: number;
  side?: Side;
}

export interface AttentionTraits extends CommonTraits {
  text: string;
  head: number;
  query: number;
  key: number;
  pins: TokenPin[];
  /** The heads that are on; empty for all. */
  shown: number[];
  reduce: Reduce;
  mode: Mode;
  weighting: Weighting;
  mask_sinks: boolean;
  compare: Compare;
  part: string;
  lead_open: boolean;
}

/** Which weights: a layer of the first text or of the other one. */
export interface SliceKey {
  layer: number;
  part: string;
  weighting: Weighting;
  other: boolean;
}

export function sliceName({ layer, part, weighting, other }: SliceKey): string {
  return `${layer}/${part}/${weighting}/${other ? 1 : 0}`;
}

export const ATTENTION: WireSpec<AttentionTraits, AttentionMeta> = {
  defaults: {
    ...COMMON,
    view: "attention",
    text: "",
    head: -1,
    query: -1,
    key: -1,
    pins: [],
    shown: [],
    reduce: "one",
    mode: "both",
    weighting: "pattern",
    mask_sinks: false,
    compare: "first",
    part: "self",
    lead_open: true,
    // 0: as wide as there is room for.
    cell_width: 0,
  },
  isMeta: (meta): meta is AttentionMeta =>
    "run" in meta && typeof meta.run === "number" && "kv_groups" in meta && "tokens" in meta,
  axes: ({ layers, n_heads }) => ({ layer: layers.length, head: n_heads }),
  names: ({ tokens, key_tokens, by_part, other }) =>
    [{ tokens, key_tokens }, ...Object.values(by_part ?? {}), ...(other ? [other] : [])]
      .flatMap((part) => [...part.tokens, ...part.key_tokens])
      // Tokens of weights from elsewhere have no id.
      .filter((token) => !token.cont && token.id >= 0),
};
