import type { PackedSlice } from "./slice";
import { COMMON, type CommonMeta, type CommonTraits, type TokenInfo, type WireSpec } from "./types";

export type Weighting = "pattern" | "value" | "norm" | "scores";
/** One head, or the mean or the largest weight of the heads that are on. */
export type Reduce = "one" | "mean" | "max";
export type Mode = "lines" | "matrix" | "both";
export type Side = "query" | "key";

/** What a head does in this text, above the threshold of its role. */
export interface Role {
  layer: number;
  head: number;
  role: string;
  score: number;
}

/** The tokens of one text, and those that stand apart: the beginning of a text, separators. */
export interface Tokens {
  tokens: TokenInfo[];
  /** Absent where a text looks at itself. */
  key_tokens?: TokenInfo[];
  /** For each key. */
  special?: boolean[];
}

/** A second text or model beside the first. */
export interface OtherText extends Tokens {
  label: string;
  model: string;
  text: string;
}

export interface AttentionMeta extends CommonMeta, Tokens {
  /** The layers that were computed. */
  layers: number[];
  n_heads: number;
  /** The group of each head: heads of one group share keys and values. */
  kv_groups: number[];
  parts: string[];
  weightings: Weighting[];
  weightings_possible: Weighting[];
  roles: Role[];
  role_rule: string;
  other: OtherText | null;
  lead: string;
  terms: Record<string, string>;
  /** In a snapshot: the weights of its layers by `sliceName`. */
  slices?: Record<string, PackedSlice>;
  /** Which layers a snapshot leaves out, and why. */
  slices_note?: string;
}

/** A token whose weights stay shown alone; a query where no side is said. */
export interface TokenPin {
  position: number;
  side?: Side;
}

export interface AttentionOptions {
  weighting?: readonly string[];
}

export interface AttentionTraits extends CommonTraits {
  text: string;
  options: AttentionOptions;
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
  part: string;
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
    part: "self",
    // 0: as wide as there is room for.
    cell_width: 0,
  },
  isMeta: (meta): meta is AttentionMeta =>
    "run" in meta && typeof meta.run === "number" && "kv_groups" in meta && "tokens" in meta,
  axes: ({ layers, n_heads }) => ({ layer: layers.length, head: n_heads }),
  names: ({ tokens, key_tokens, other }) =>
    [tokens, key_tokens, other?.tokens, other?.key_tokens]
      .flatMap((list) => list ?? [])
      .filter((token) => !token.cont),
};
