import { COMMON, type CommonMeta, type CommonTraits, type WireSpec } from "./types";

/** A metric in words, as it can be picked. */
export interface CatalogueEntry {
  name: string;
  long_name: string;
  question: string;
  formula: string;
  units: string;
  source: string;
  cost: string;
  axes: string[];
  family: string;
  outputs: string[];
  /** Why this model cannot give it; empty when it can. */
  why: string;
}

export interface AxisInfo {
  size: number;
  labels: string[];
  /** The layer (-1: the embedding) or head of each entry; null on an axis of a metric's own. */
  numbers: number[] | null;
  long_name: string;
}

export type ArrayKind =
  | "curve"
  | "lines"
  | "heads"
  | "matrix"
  | "clusters"
  | "profile"
  | "scalar"
  | "table";

export interface ArrayInfo {
  /** Arrays of the second model are named "other.<name>". */
  name: string;
  metric: string;
  long_name: string;
  units: string;
  dims: string[];
  dtype: "float" | "int" | "token";
  /** Whether `<name>_low` and `<name>_high` come as well. */
  interval: boolean;
  kind: ArrayKind;
  other: boolean;
}

export interface OtherModel {
  label: string;
  model: string;
  n_layers: number;
}

export interface MetricsMeta extends CommonMeta {
  metrics: string[];
  described: Record<string, CatalogueEntry>;
  n_texts: number;
  n_tokens: number;
  /** Tokens that count; null until known. */
  n_counted: number | null;
  skip_first: boolean;
  axes: Record<string, AxisInfo>;
  arrays: ArrayInfo[];
  /** First and last entry of each group along the diagonal of a matrix, by its name. */
  clusters: Record<string, [first: number, last: number][]>;
  other: OtherModel | null;
}

export interface MetricsTraits extends CommonTraits {
  texts: string[];
  /** The only text; "" when there are several. */
  text: string;
  /** Empty: the default set. */
  metrics: string[];
  head: number;
  hidden: string[];
  /** The array shown large; "" for none. */
  focus: string;
  scale: "linear" | "log";
  overlay: boolean;
  catalogue: CatalogueEntry[];
}

export const METRICS: WireSpec<MetricsTraits, MetricsMeta> = {
  defaults: {
    ...COMMON,
    view: "metrics",
    texts: [],
    text: "",
    metrics: [],
    head: -1,
    hidden: [],
    focus: "",
    scale: "linear",
    overlay: true,
    catalogue: [],
    // 0: as wide as there is room for.
    cell_width: 0,
  },
  isMeta: (meta): meta is MetricsMeta =>
    "run" in meta && typeof meta.run === "number" && "arrays" in meta && "axes" in meta,
  axes: ({ axes }) =>
    Object.fromEntries(Object.entries(axes).map(([name, { size }]) => [name, size])),
  names: () => [],
};
