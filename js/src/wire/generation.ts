import { LENS, type LensMeta, type LensOptions, type LensTraits } from "./lens";
import type { TokenName, WireSpec } from "./types";

export interface Rule {
  name: string;
  words: string;
  /** What the score has to exceed where nothing else was said. */
  threshold: number;
  /** Where a slider of it begins and ends, and by how much it steps. */
  low: number;
  high: number;
  step: number;
}

export interface GenerationMeta extends LensMeta {
  /** Columns that the arrays have room for. */
  steps: number;
  /** What the model went on from. */
  prompt: string[];
  /** How many of the tokens were given, not chosen. */
  begun: number;
  /** Which points are states of the stream. */
  states: boolean[];
  rules: Rule[];
}

export interface GenerationOptions extends LensOptions {
  temperature?: number;
  seed?: number;
}

export interface GenerationTraits extends LensTraits {
  options: GenerationOptions;
  step: number;
  begin: number[];
  /** What was written before the branch. */
  before: TokenName[];
  rule: string;
  threshold: number;
  /** Blocks that always run. */
  min_layers: number;
}

export const GENERATION: WireSpec<GenerationTraits, GenerationMeta> = {
  defaults: {
    ...LENS.defaults,
    view: "generation",
    color: "written",
    step: -1,
    begin: [],
    before: [],
    rule: "margin",
    threshold: 0.5,
    min_layers: 0,
  },
  isMeta: (meta): meta is GenerationMeta => LENS.isMeta(meta) && "steps" in meta,
  axes: ({ points, steps, k }) => ({ point: points.length, step: steps, k }),
  names: ({ tokens }) => tokens.filter((token) => !token.cont),
};
