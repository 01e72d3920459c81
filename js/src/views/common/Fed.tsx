import type { ComponentChildren } from "preact";
import { Outcome, Progress } from "./Footer";
import { PictureOf } from "./Shell";
import type { BaseState } from "./state";

interface Props {
  state: BaseState;
  /** What the button that ends a run says. */
  verb?: string;
  children?: ComponentChildren;
}

/** Under the fields of a question: what became of it, what was really fed, and how far a run is. */
export function Fed({ state, verb, children }: Props) {
  return (
    <>
      <Outcome state={state} />
      <div class="ll-fed">
        <PictureOf state={state} />
        {children}
        <Progress state={state} verb={verb} />
      </div>
    </>
  );
}

/** What a run has to say of itself, a sentence each. */
export function Notes({ notes }: { notes: readonly string[] }) {
  return (
    <>
      {notes.map((note) => (
        <span class="ll-note" key={note}>
          {note}
        </span>
      ))}
    </>
  );
}
