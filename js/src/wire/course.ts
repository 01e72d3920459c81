import type { Embedded } from "./frozen";
import { COMMON, type CommonTraits } from "./types";

export type Kind = "token" | "layer" | "head" | "number" | "curve" | "choice" | "text";

/** What is asked; the same as in layerlens/course/question.py. */
export interface Question {
  id: string;
  ask: string;
  kind: Kind;
  /** What can be chosen, or the places of a curve along its axis. */
  options: string[];
  between: [number, number] | null;
  unit: string;
  tolerance: number | null;
  hint: string;
  lock: boolean;
}

/** A text, a number, or numbers; a place of a curve that is not drawn yet has none. */
export type Value = string | number | (number | null)[];

export interface Answer {
  value: Value | null;
  /** Whether it is more than a draft. */
  given: boolean;
  tries: number;
}

export interface CourseTraits extends CommonTraits {
  question: Question;
  answer: Answer;
  /** Every right answer; empty until it may be seen. */
  truth: Value[];
  /** What is revealed with the truth: a reference to a widget, or a view of this page. */
  figure: string | Embedded | null;
}

export const COURSE: CourseTraits = {
  ...COMMON,
  view: "course",
  question: {
    id: "",
    ask: "",
    kind: "text",
    options: [],
    between: null,
    unit: "",
    tolerance: null,
    hint: "",
    lock: true,
  },
  answer: { value: null, given: false, tries: 0 },
  truth: [],
  figure: null,
};
