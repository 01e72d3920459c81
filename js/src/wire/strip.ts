import { ANSWER, type AnswerMeta, type AnswerTraits } from "./answer";
import type { TokenInfo, WireSpec } from "./types";

export interface StripMeta extends AnswerMeta {
  strip: {
    /** The axis of the slider. */
    steps: string;
    /** The axis of the tokens. */
    items: string;
    /** Arrays over both: a row of tokens each. */
    rows: string[];
    /** Arrays over the steps alone: what is known of a depth as a whole. */
    beside: string[];
    /** The step that a reader sees first; -1: the last that has come. */
    start: number;
  };
  /** The tokens of a second text; empty where they are those of the first. */
  theirs: TokenInfo[];
}

export interface StripTraits extends AnswerTraits {
  /** The entry of the slider where no layer is looked at; -1: where the strip begins. */
  step: number;
  /** Whether colours reach as far as the numbers of the depth that is drawn, or of all. */
  colors: "one" | "all";
}

export const STRIP: WireSpec<StripTraits, StripMeta> = {
  ...ANSWER,
  defaults: { ...ANSWER.defaults, view: "strip", step: -1, colors: "one" },
  isMeta: (meta): meta is StripMeta => ANSWER.isMeta(meta) && "strip" in meta,
};
