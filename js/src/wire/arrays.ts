import type { CommonMeta, CommonTraits } from "./types";

/** What can be said of a measure, or of an array of an analysis. */
export interface Described {
  long_name: string;
  question: string;
  formula: string;
  units: string;
  source: string;
}

export interface AxisInfo {
  size: number;
  labels: string[];
  /** The layer (-1: the embedding), head or position of each entry, or its own whole number. */
  numbers: number[] | null;
  long_name: string;
  /** Whether entries are things in no order, between which a line would say nothing. */
  named?: boolean;
  /** What entries are, so that linked views can follow; absent: the axis's name says it. */
  role?: "layer" | "head" | "position" | "";
  /** The input whose tokens the entries are; empty or absent where they are none. */
  tokens?: string;
}

export type ArrayKind =
  | "curve"
  | "lines"
  | "grid"
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
  /** The axes that it is drawn over; absent: as its axes say. Of lines, `down` has one each. */
  down?: string;
  across?: string;
  third?: string;
  /** The arrays of the interval's ends; absent: `<name>_low` and `<name>_high`. */
  low?: string;
  high?: string;
  /** The integer that stands for no value; absent: all below zero. */
  missing?: number | null;
  /** Whether a chart has room for all of its numbers, though few lie far off the others. */
  unclipped?: boolean;
}

export interface OtherModel {
  label: string;
  model: string;
  n_layers: number;
}

/** Arrays over named axes, whatever they measure. */
export interface ArraysMeta extends CommonMeta {
  described: Record<string, Described>;
  axes: Record<string, AxisInfo>;
  arrays: ArrayInfo[];
  /** First and last entry of each group along the diagonal of a matrix, by its name. */
  clusters: Record<string, [first: number, last: number][]>;
  other: OtherModel | null;
}

export interface ArraysTraits extends CommonTraits {
  head: number;
  /** Curves that are not drawn. */
  hidden: string[];
  /** The array shown large; "" for none. */
  focus: string;
  scale: "linear" | "log";
}

/** Whether a meta has what arrays need. */
export function hasArrays(meta: object): meta is ArraysMeta {
  return "run" in meta && typeof meta.run === "number" && "arrays" in meta && "axes" in meta;
}

export function sizesOf({ axes }: ArraysMeta): Record<string, number> {
  return Object.fromEntries(Object.entries(axes).map(([name, { size }]) => [name, size]));
}
