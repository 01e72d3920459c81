import {
  COMMON,
  type CommonMeta,
  type CommonTraits,
  type TokenInfo,
  type TokenName,
  type WireSpec,
} from "./types";

export const POSITION_SITES = [
  "resid_pre",
  "resid_mid",
  "resid_post",
  "attn_out",
  "mlp_out",
] as const;
export const HEAD_SITES = ["z", "q", "k", "v", "rot_q", "rot_k"] as const;
export const METRICS = ["logit_diff", "logit", "probability", "logprob", "kl", "rank"] as const;

export type Axis = "position" | "head";
export type Direction = "denoise" | "noise";

/** Where in a run a patch takes its value or puts it; null: every position. */
export interface Spot {
  layer: number;
  position: number | null;
}

/** One patch: the other run's activation at `from` replaces this run's at the place named first. */
export interface Edit extends Spot {
  site: string;
  /** null where the site has no heads, or all of them are meant. */
  head: number | null;
  from: Spot;
  on: boolean;
}

export interface PatchMeta extends CommonMeta {
  n_heads: number;
  n_kv_heads: number;
  clean_tokens: TokenInfo[];
  corrupt_tokens: TokenInfo[];
  /** Positions of the patched text whose tokens differ from their partners. */
  differing: number[];
  /** Which text is patched; the grid's positions are its. */
  patched: "clean" | "corrupt";
  /** For each position of the patched text, that of the other one it belongs to; null for none. */
  partners: (number | null)[];
  site: string;
  by: Axis;
  rows: string[];
  columns: string[];
  /** The layer of each row and the position or head of each column, which options can restrict. */
  row_numbers?: number[];
  column_numbers?: number[];
  metric: {
    name: string;
    long_name: string;
    units: string;
    clean: number | null;
    corrupt: number | null;
  };
  answer: TokenName | null;
  wrong: TokenName | null;
  /** The direction in words. */
  direction: string;
  method?: string;
  /** Why no estimate was drawn first; empty where one was, or none was asked for. */
  no_estimate?: string;
  /** The sites that can be patched in this model. */
  sites?: string[];
}

/** One run of the patches in the list. */
export interface PatchRun {
  edits: Edit[];
  metric: number | null;
  recovered: number | null;
  top: [id: number, text: string, probability: number];
}

export interface PatchTraits extends CommonTraits {
  clean: string;
  corrupt: string;
  /** "" is the model's own choice. */
  answer: string;
  wrong: string;
  site: string;
  by: Axis;
  metric: string;
  direction: Direction;
  head: number;
  edits: Edit[];
  history: PatchRun[];
}

/** The answer to `distribution`: the next token before and after some patches. */
export interface Distribution {
  tokens: { id: number; text: string; before: number; after: number }[];
  /** null where a number is not finite. */
  metric: { before: number | null; after: number | null; recovered: number | null };
  code: string;
}

export const PATCH: WireSpec<PatchTraits, PatchMeta> = {
  defaults: {
    ...COMMON,
    view: "patch",
    clean: "",
    corrupt: "",
    answer: "",
    wrong: "",
    site: "resid_pre",
    by: "position",
    metric: "logit_diff",
    direction: "denoise",
    head: -1,
    edits: [],
    history: [],
    // 0: as wide as there is room for.
    cell_width: 0,
  },
  isMeta: (meta): meta is PatchMeta =>
    "run" in meta && typeof meta.run === "number" && "rows" in meta && "clean_tokens" in meta,
  axes: ({ rows, columns }) => ({
    layer: rows.length,
    position: columns.length,
    head: columns.length,
  }),
  names: ({ clean_tokens, corrupt_tokens, answer, wrong }) => [
    ...[...clean_tokens, ...corrupt_tokens].filter((token) => !token.cont),
    ...[answer, wrong].filter((token) => token !== null && token !== undefined),
  ],
};
