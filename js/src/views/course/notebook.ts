import type { Answer } from "../../wire/course";

/**
 * The notebook's own metadata, in which answers survive restarts and deleted cells. The extension of
 * JupyterLab and Notebook (js/lab/answers.ts) listens to these events; elsewhere nobody does, and
 * the widget's own state is all that there is.
 */
export const KEEP = "layerlens:keep-answer";
export const FIND = "layerlens:find-answer";

export interface Kept {
  id: string;
  answer: Answer;
}

export interface Found {
  id: string;
  answer: Answer | null;
}

export function keep(el: Element, id: string, answer: Answer): void {
  tell<Kept>(el, KEEP, { id, answer });
}

/** The answer that the notebook keeps under this id. */
export function find(el: Element, id: string): Answer | null {
  const detail: Found = { id, answer: null };
  tell(el, FIND, detail);
  return detail.answer;
}

function tell<T>(el: Element, name: string, detail: T): void {
  el.dispatchEvent(new CustomEvent<T>(name, { bubbles: true, composed: true, detail }));
}
