import { ANSWER, type AnswerMeta, type AnswerTraits } from "./answer";
import type { WireSpec } from "./types";

export interface ScatterMeta extends AnswerMeta {
  scatter: {
    /** The arrays that are coordinates. */
    x: string;
    y: string;
    /** The axis of the slider. */
    steps: string;
    /** The axis of the marks. */
    items: string;
    /** The axis of pictures side by side; "" where there is one. */
    pictures: string;
    /** What colours say: the label, each mark itself, its depth, or nothing. */
    colors: "label" | "own" | "depth" | "one";
    labels: string[];
    words: string[];
    /** 1 for marks that the axes were fitted on; empty where it makes no difference. */
    fitted: number[];
    /** Whether both axes have one scale. */
    equal: boolean;
  };
}

export interface ScatterTraits extends AnswerTraits {
  /** The entry of the slider where no layer is looked at; -1: the last that has come. */
  step: number;
  /** The mark that is looked at; -1 for none. */
  item: number;
  hidden_labels: string[];
  /** Whether marks are drawn that the axes were fitted on. */
  fitted: boolean;
  /** Whether axes hold all layers, or the one that is drawn. */
  axes: "all" | "one";
}

export const SCATTER: WireSpec<ScatterTraits, ScatterMeta> = {
  ...ANSWER,
  defaults: {
    ...ANSWER.defaults,
    view: "scatter",
    step: -1,
    item: -1,
    hidden_labels: [],
    fitted: true,
    axes: "all",
  },
  isMeta: (meta): meta is ScatterMeta => ANSWER.isMeta(meta) && "scatter" in meta,
};
