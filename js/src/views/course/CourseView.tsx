import { useEffect, useRef } from "preact/hooks";
import { useFrame } from "../common/Shell";
import { Ask } from "./Ask";
import { Curve } from "./Curve";
import { find } from "./notebook";
import type { CourseState } from "./state";
import { judge, sentence, whole } from "./verdict";

/** A question, the field for its answer, and once that was given the truth with its figure. */
export function CourseView({ state }: { state: CourseState }) {
  const { question, answer, title } = state.traits;
  const asked = question.value;
  const root = useFrame(state.palette.value, title.value || `Question: ${asked.ask}`);
  useEffect(() => whenShown(root.current, (el) => state.adopt(find(el, asked.id))), [asked.id]);
  const ready = whole(asked, answer.value.value);
  return (
    <section class="ll-view ll-course" ref={root}>
      <form
        onSubmit={(event) => {
          event.preventDefault();
          state.give(root.current);
        }}
      >
        {title.value && <h2>{title.value}</h2>}
        <p class="ll-course-ask">{asked.ask}</p>
        <Ask state={state} root={root} />
        <div class="ll-course-bar">
          {state.open.value ? (
            <button type="submit" class="ll-primary" disabled={!ready}>
              Answer
            </button>
          ) : (
            !asked.lock && (
              <button type="button" onClick={() => state.again(root.current)}>
                Answer again
              </button>
            )
          )}
          {state.open.value && asked.lock && (
            <span class="ll-dim">Once given, an answer stays; then the truth is shown.</span>
          )}
          <Hint state={state} />
        </div>
      </form>
      <div role="status">{!state.open.value && <Outcome state={state} />}</div>
      {!state.open.value && <Figure state={state} />}
    </section>
  );
}

function Hint({ state }: { state: CourseState }) {
  const { hint } = state.traits.question.value;
  if (!hint) return null;
  if (state.hinted.value) return <span class="ll-note">Hint: {hint}</span>;
  return (
    <button
      type="button"
      class="ll-link"
      onClick={() => {
        state.hinted.value = true;
      }}
    >
      Hint
    </button>
  );
}

/** Whether the answer was right, and how far off; or what keeps the truth away. */
function Outcome({ state }: { state: CourseState }) {
  const { question, answer, truth, status, live } = state.traits;
  const { value } = answer.value;
  if (status.value.state === "error") return <p class="ll-bad">{status.value.message}</p>;
  if (truth.value.length === 0 || value === null) {
    return (
      <p class="ll-dim">
        {live.value
          ? "The truth is being computed…"
          : "Your answer is kept; the truth is computed when the notebook runs."}
      </p>
    );
  }
  const verdict = judge(question.value, value, truth.value);
  const look = verdict.right === null ? "" : verdict.right ? "ll-good" : "ll-bad";
  return (
    <>
      <p class={`ll-course-outcome ${look}`}>
        {verdict.right !== null && <span aria-hidden="true">{verdict.right ? "✓ " : "✗ "}</span>}
        {sentence(question.value, value, verdict)}
      </p>
      {question.value.kind === "curve" && (
        <Curve
          question={question.value}
          drawn={value as number[]}
          real={verdict.truth as number[]}
        />
      )}
    </>
  );
}

/** The figure that is revealed with the truth. */
function Figure({ state }: { state: CourseState }) {
  const place = useRef<HTMLDivElement>(null);
  const problem = useRef<HTMLParagraphElement>(null);
  const figure = state.traits.figure.value;
  const seen = figure !== null && state.traits.truth.value.length > 0;
  useEffect(() => {
    const el = place.current;
    if (!el || !seen) return;
    let gone = false;
    let remove = () => {};
    state.reveal(figure, el).then(
      (taken) => {
        if (gone) taken();
        else remove = taken;
      },
      (error: Error) => {
        if (problem.current) {
          problem.current.textContent = `The figure could not be shown. ${error.message}`;
        }
      },
    );
    return () => {
      gone = true;
      remove();
      el.replaceChildren();
    };
  }, [figure, seen, state]);
  return (
    <>
      <p class="ll-bad" ref={problem} />
      <div class="ll-course-figure" ref={place} />
    </>
  );
}

/** Call once the element is in the page: before, an event from it reaches nobody. */
function whenShown(el: Element | null, call: (el: Element) => void): () => void {
  let frame = 0;
  const look = () => {
    if (el?.isConnected) call(el);
    else frame = requestAnimationFrame(look);
  };
  look();
  return () => cancelAnimationFrame(frame);
}
