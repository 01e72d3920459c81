import { useSignal } from "@preact/signals";
import { useId } from "preact/hooks";
import type { Question, Value } from "../../wire/course";
import { Curve } from "./Curve";
import type { CourseState } from "./state";

interface Props {
  state: CourseState;
  root: { readonly current: Element | null };
}

interface FieldProps {
  question: Question;
  value: Value | null;
  fixed: boolean;
  put: (value: Value | null) => void;
}

/** The field for an answer, as its kind asks for it. */
export function Ask({ state, root }: Props) {
  const { question, answer } = state.traits;
  const field = {
    question: question.value,
    value: answer.value.value,
    fixed: !state.open.value,
    put: (value: Value | null) => state.draft(root.current, value),
  };
  switch (question.value.kind) {
    case "choice":
      return <Choices {...field} />;
    case "text":
      return <Words {...field} />;
    case "curve": {
      // Beside the real one it is drawn again, once that is known.
      if (field.fixed && state.traits.truth.value.length > 0) return null;
      const { put } = field;
      return (
        <Curve
          question={question.value}
          drawn={(field.value ?? []) as (number | null)[]}
          draw={field.fixed ? undefined : put}
        />
      );
    }
    default:
      return <Line {...field} />;
  }
}

function Choices({ question, value, fixed, put }: FieldProps) {
  const name = useId();
  return (
    <fieldset class="ll-course-choices" aria-label={question.ask} disabled={fixed}>
      {question.options.map((option) => (
        <label key={option}>
          <input type="radio" name={name} checked={option === value} onChange={() => put(option)} />
          {option}
        </label>
      ))}
    </fieldset>
  );
}

function Words({ question, value, fixed, put }: FieldProps) {
  return (
    <textarea
      rows={3}
      dir="auto"
      aria-label={question.ask}
      readOnly={fixed}
      value={String(value ?? "")}
      onInput={(event) => put(event.currentTarget.value || null)}
    />
  );
}

/** A token, a number, a layer or a head, on one line. */
function Line({ question, value, fixed, put }: FieldProps) {
  const { kind, between, unit } = question;
  const limits = between && `${between[0]} to ${between[1]}`;
  const shown = kind === "head" && Array.isArray(value) ? value.join(".") : String(value ?? "");
  // A head half typed is none yet, and stays as it is.
  const typed = useSignal("");
  const number = kind === "number" || kind === "layer";
  const field = {
    dir: "auto" as const,
    "aria-label": question.ask,
    readOnly: fixed,
    value: value === null ? typed.value : shown,
    onInput: (event: { currentTarget: HTMLInputElement }) => {
      typed.value = event.currentTarget.value;
      put(read(kind, typed.value));
    },
  };
  return (
    <p class="ll-course-line">
      {kind === "layer" && <span>layer</span>}
      {kind === "head" && <span>head</span>}
      {number ? (
        <input
          {...field}
          type="number"
          step={kind === "layer" ? 1 : "any"}
          min={between?.[0]}
          max={between?.[1]}
        />
      ) : (
        <input
          {...field}
          type="text"
          autocomplete="off"
          spellcheck={false}
          placeholder={kind === "head" ? "5.1" : undefined}
        />
      )}
      {unit && <span>{unit}</span>}
      {limits && <span class="ll-dim">{limits}</span>}
      {kind === "head" && <span class="ll-dim">layer.head</span>}
    </p>
  );
}

function read(kind: Question["kind"], text: string): Value | null {
  if (kind === "token") return text || null;
  if (kind === "head") {
    const parts = /^\s*(\d+)\s*[.,]\s*(\d+)\s*$/.exec(text);
    return parts && [Number(parts[1]), Number(parts[2])];
  }
  return text.trim() === "" || Number.isNaN(Number(text)) ? null : Number(text);
}
