import { type ArraysMeta, type ArraysTraits, type Described, hasArrays, sizesOf } from "./arrays";
import { COMMON, type WireSpec } from "./types";

/** A metric in words, as it can be picked. */
export interface CatalogueEntry extends Described {
  name: string;
  cost: string;
  axes: string[];
  family: string;
  outputs: string[];
  /** Why this model cannot give it; empty when it can. */
  why: string;
}

export interface MetricsMeta extends ArraysMeta {
  metrics: string[];
  described: Record<string, CatalogueEntry>;
  n_texts: number;
  n_tokens: number;
  /** Tokens that count; null until known. */
  n_counted: number | null;
  skip_first: boolean;
}

export interface MetricsTraits extends ArraysTraits {
  texts: string[];
  /** The only text; "" when there are several. */
  text: string;
  /** Empty: the default set. */
  metrics: string[];
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
  isMeta: (meta): meta is MetricsMeta => hasArrays(meta),
  axes: sizesOf,
  names: () => [],
};
