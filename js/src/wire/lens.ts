import type { WireSpec } from "./types";
import {
  COMMON,
  type CommonMeta,
  type CommonTraits,
  type TokenInfo,
  type TokenName,
} from "./types";

export const COLOR_MODES = [
  "probability",
  "entropy",
  "rank",
  "kl",
  "tracked",
  "written",
  "margin",
] as const;
export type ColorMode = (typeof COLOR_MODES)[number];

export interface LensMeta extends CommonMeta {
  d_vocab: number;
  tokens: TokenInfo[];
  points: string[];
  layers: number[];
  k: number;
  tracked: TokenName[];
  /** What the lens is compared with; null where it stands alone. */
  other?: { kind: OtherKind; label: string; tokens: string[] } | null;
  /** The lenses that states are read through; none for the logit lens alone. */
  lenses?: LensInfo[];
  /** Which of them the others are compared with. */
  against?: number;
  picture?: FedPicture | null;
}

/** What was fed in the place of a text, and where its positions lie in it. */
export type FedPicture =
  | { kind: "images"; rows: number; columns: number; first: number; source: string }
  | { kind: "audio"; seconds: number; wave: [number, number][] };

export interface LensInfo {
  name: string;
  /** Points that it has a map for; null where it reads any. */
  points: string[] | null;
  /** KL from the final answer at each point on texts that were set apart, nats. */
  heldout: (number | null)[] | null;
  /** The same of a uniform guess, on the same texts. */
  uniform: number | null;
}

export type OtherKind = "model" | "text" | "edits";

/** How two lenses are shown; of several read in one pass also one alone. */
export type Compare = "alone" | "beside" | "change" | "kl";

export interface Pin {
  position: number;
  id: number;
}

export interface LensOptions {
  top_k?: number;
  points?: readonly string[];
  tracked?: number[];
  /** Name of the lens that others are compared with; the first where it is left out. */
  against?: string;
}

export interface LensTraits extends CommonTraits {
  text: string;
  options: LensOptions;
  row: number;
  pins: Pin[];
  color: ColorMode;
  tracked: number;
  transposed: boolean;
  /** What it is compared with, in words; a second text is there to be edited. */
  other: string;
  other_kind: OtherKind | "";
  compare: Compare;
  /** Of the chart of pinned tokens. */
  scale: "linear" | "log";
  /** What states are read through, and which of these lenses is looked at. */
  lens: string[];
  through: number;
}

export const LENS: WireSpec<LensTraits, LensMeta> = {
  defaults: {
    ...COMMON,
    view: "lens",
    text: "",
    row: -1,
    pins: [],
    color: "probability",
    tracked: 0,
    transposed: false,
    other: "",
    other_kind: "",
    compare: "beside",
    scale: "linear",
    lens: [],
    through: 0,
    // 0: as wide as there is room for.
    cell_width: 0,
  },
  isMeta: (meta): meta is LensMeta =>
    "run" in meta && typeof meta.run === "number" && "points" in meta && "tokens" in meta,
  axes: ({ points, tokens, k, tracked, lenses }) => ({
    lens: lenses?.length ?? 1,
    point: points.length,
    position: tokens.length,
    k,
    tracked: tracked?.length ?? 0,
  }),
  names: ({ tokens, tracked }) => [...tokens.filter((token) => !token.cont), ...(tracked ?? [])],
};
