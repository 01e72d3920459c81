import { ANSWER, type AnswerMeta, type AnswerTraits } from "./answer";
import type { WireSpec } from "./types";

export interface FeatureMeta extends AnswerMeta {
  feature: {
    number: number;
    /** The site that its dictionary reads, and in which layers. */
    site: string;
    layers: number[];
    /** Of each example: 0 for one of the strongest, else the number of its band. */
    groups: number[];
    /** How much of it was added to the text, in the order of the axis. */
    strengths: number[];
  };
}

export interface FeatureTraits extends AnswerTraits {
  /** How much of the feature is added to the text that is looked at. */
  strength: number;
  /** What someone wrote of features, by their numbers. */
  meanings: Record<string, string>;
}

export const FEATURE: WireSpec<FeatureTraits, FeatureMeta> = {
  ...ANSWER,
  defaults: { ...ANSWER.defaults, view: "feature", strength: 1, meanings: {} },
  isMeta: (meta): meta is FeatureMeta => ANSWER.isMeta(meta) && "feature" in meta,
};
