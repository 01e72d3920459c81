import { compact } from "../../marks/numbers";
import type { Question, Value } from "../../wire/course";

/** How far a drawn curve may lie from the true one, as a part of its axis. */
const SAME_CURVE = 0.1;
/** How far a number may lie from the true one, as a part of that. */
const SAME_NUMBER = 0.05;

/** A limit of .05 holds for .95 and 1, whose difference is a little more in a computer. */
const ROUNDED = 1 + 1e-9;

export interface Verdict {
  /** null for a text, which only a reader can judge. */
  right: boolean | null;
  /** Layers, units of a number, or a part of a curve's axis; null where there is no measure. */
  far: number | null;
  /** The right answer that is nearest. */
  truth: Value;
}

/** Compare an answer with the right ones, as `judge` in layerlens/course/question.py does. */
export function judge(question: Question, answer: Value, truth: readonly Value[]): Verdict {
  const first = truth[0] as Value;
  const { kind } = question;
  if (kind === "text") return { right: null, far: null, truth: first };
  if (kind === "token" || kind === "choice" || kind === "head") {
    const met = truth.find((one) => plain(one) === plain(answer));
    return { right: met !== undefined, far: null, truth: met ?? first };
  }
  const all = truth.map((one) => near(question, answer, one));
  return all.reduce((best, one) => ((one.far ?? 0) < (best.far ?? 0) ? one : best));
}

function plain(value: Value): string {
  return typeof value === "string" ? value.trim() : value.toString();
}

function near(question: Question, answer: Value, truth: Value): Verdict {
  const { kind, tolerance, between } = question;
  if (kind === "curve") {
    const [low, high] = between ?? [0, 1];
    const [drawn, real] = [answer as number[], truth as number[]];
    const sum = real.reduce((total, value, i) => total + Math.abs((drawn[i] ?? 0) - value), 0);
    const far = sum / real.length / (high - low);
    const limit = tolerance === null ? SAME_CURVE : tolerance / (high - low);
    return { right: far <= limit * ROUNDED, far, truth };
  }
  const far = Math.abs((answer as number) - (truth as number));
  const own = kind === "layer" ? 0 : SAME_NUMBER * Math.abs(truth as number);
  return { right: far <= (tolerance ?? own) * ROUNDED, far, truth };
}

/** What to tell who answered. */
export function sentence(question: Question, answer: Value, verdict: Verdict): string {
  const { kind, unit } = question;
  if (kind === "text") return `An answer to hold yours against: ${verdict.truth}`;
  if (kind === "curve") {
    const apart = `${Math.round(100 * (verdict.far ?? 0))} % of the axis`;
    return `${verdict.right ? "Right" : "Not quite"}: on average your curve lies ${apart} from the real one.`;
  }
  const truth = said(question, verdict.truth);
  if (verdict.right) {
    return verdict.far
      ? `Right: it is ${truth}, and you said ${said(question, answer)}.`
      : `Right: ${truth}.`;
  }
  const { far } = verdict;
  const measure = kind === "layer" ? (far === 1 ? "layer" : "layers") : unit;
  const away = far === null ? "" : `, ${compact(far)} ${measure}`.trimEnd();
  return `Not quite: it is ${truth}, you said ${said(question, answer)}${away && `${away} away`}.`;
}

/** An answer in words. */
export function said({ kind, unit }: Question, value: Value): string {
  if (kind === "layer") return `layer ${value}`;
  if (kind === "head") return `head ${(value as number[]).join(".")}`;
  if (kind === "number") return `${compact(value as number)} ${unit}`.trimEnd();
  return `“${value}”`;
}

/** Whether a value is a whole answer, so that it can be given. */
export function whole(question: Question, value: Value | null): value is Value {
  switch (question.kind) {
    case "token":
    case "text":
      return typeof value === "string" && value.trim() !== "";
    case "choice":
      return question.options.includes(value as string);
    case "number":
      return typeof value === "number" && Number.isFinite(value);
    case "layer": {
      const [low, high] = question.between ?? [0, Number.POSITIVE_INFINITY];
      return Number.isInteger(value) && low <= (value as number) && (value as number) <= high;
    }
    case "head":
      return Array.isArray(value) && value.length === 2 && value.every((n) => Number.isInteger(n));
    case "curve":
      return (
        Array.isArray(value) &&
        value.length === question.options.length &&
        value.every((n) => typeof n === "number")
      );
  }
}
