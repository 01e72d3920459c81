// Keeps the answers to a course's questions in the metadata of the notebook that asks them, where
// they survive restarts, deleted cells and front ends without widgets. The views tell by events
// that bubble up to the document; layerlens/course/kept.py reads what is written here.

import { FIND, type Found, KEEP, type Kept } from "../src/views/course/notebook";
import type { Answer } from "../src/wire/course";
import type { NotebookModel, NotebookTracker } from "./jupyterlab";

const OURS = "layerlens";

interface Metadata {
  answers?: Record<string, Answer>;
}

export function keepAnswers(doc: Document, notebooks: NotebookTracker): void {
  doc.addEventListener(KEEP, (event) => {
    const { id, answer } = (event as CustomEvent<Kept>).detail;
    const model = notebookOf(event, notebooks);
    if (model === null) return;
    const ours = read(model);
    model.setMetadata(OURS, { ...ours, answers: { ...ours.answers, [id]: answer } });
  });
  doc.addEventListener(FIND, (event) => {
    const { detail } = event as CustomEvent<Found>;
    const model = notebookOf(event, notebooks);
    if (model !== null) detail.answer = read(model).answers?.[detail.id] ?? null;
  });
}

function read(model: NotebookModel): Metadata {
  return (model.getMetadata(OURS) ?? {}) as Metadata;
}

/** The notebook in which something happened. */
function notebookOf(event: Event, notebooks: NotebookTracker): NotebookModel | null {
  const path = event.composedPath();
  return notebooks.find(({ node }) => path.includes(node))?.model ?? null;
}
