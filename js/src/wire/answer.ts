import { type ArraysMeta, type ArraysTraits, hasArrays, sizesOf } from "./arrays";
import { COMMON, type TokenInfo, type WireSpec } from "./types";

/** How the colours of an array run: from one end, or both ways from a centre. */
export interface ArrayScale {
  kind: "diverging" | "sequential";
  /** null: zero. */
  centre: number | null;
  /** How far colours reach; null: to the largest number. */
  limit: number | null;
  unit: string;
}

/** A slider through something that is dosed. */
export interface Dose {
  /** The option that sets it; asks again, unless `dim` has its entries. */
  option: string;
  values: number[];
  /** The axis of the answer that holds it; "" where there is none. */
  dim: string;
  label: string;
  /** What the picture was made with; null along an axis. */
  now: number | null;
}

export interface Estimate {
  /** null where it cannot be said. */
  seconds: number | null;
  passes: number;
  words: string;
}

export interface AnswerMeta extends ArraysMeta {
  analysis: string;
  terms: Record<string, string>;
  tokens: Record<string, TokenInfo[]>;
  scales: Record<string, ArrayScale>;
  /** The request that a cell opens; "" where there is none. */
  opens: string;
  /** What is found by a token, in words; "" where nothing is. */
  finds: string;
  doses: Dose[];
}

export interface AnswerTraits extends ArraysTraits {
  analysis_name: string;
  /** What the analysis asks, before there is an answer that says so itself. */
  asks: string;
  /** Without a value where it is not known. */
  estimate: Partial<Estimate>;
  /** The texts by their names; empty where only weights are looked at. */
  inputs: Record<string, string>;
  input_names: string[];
  options: Record<string, unknown>;
  /** The entry of a third axis. */
  entry: number;
  /** That axis, where it is not the array's own. */
  third: string;
  /** Whether the means of rows and columns are drawn. */
  means: boolean;
  lead_open: boolean;
}

/** A cell by the labels of its axes. */
export interface LabelledCell {
  array: string;
  at: Record<string, string | number>;
}

/** What a cell opens: tables, and texts with marked tokens. */
export interface CellPanel {
  title: string;
  code: string;
  tables: {
    /** Whose it is, where another's stands beside it. */
    title: string;
    head: string[];
    rows: (string | number | null)[][];
    /** The cell that each row opens; none where rows open nothing. */
    opens: LabelledCell[];
  }[];
  texts: { tokens: { text: string; mark: number }[] }[];
}

export const ANSWER: WireSpec<AnswerTraits, AnswerMeta> = {
  defaults: {
    ...COMMON,
    view: "grid",
    analysis_name: "",
    asks: "",
    estimate: {},
    inputs: {},
    input_names: [],
    options: {},
    head: -1,
    hidden: [],
    focus: "",
    scale: "linear",
    entry: 0,
    third: "",
    means: false,
    lead_open: true,
    // 0: as wide as there is room for.
    cell_width: 0,
  },
  isMeta: (meta): meta is AnswerMeta => hasArrays(meta) && "analysis" in meta,
  axes: sizesOf,
  names: ({ tokens }) =>
    Object.values(tokens ?? {})
      .flat()
      .filter((token) => !token.cont),
};
