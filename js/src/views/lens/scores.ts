import { LINE_COLORS, type LineStyle } from "../../theme/palette";
import type { LensMeta } from "../../wire/lens";
import type { RunStore } from "../../wire/store";
import { LensData } from "./data";

/** How one lens does at every point: its KL from the final answer, nats; NaN where not known. */
export interface Score {
  name: string;
  values: readonly number[];
  /** Measured on texts that were set apart when it was fitted; else the mean over this text. */
  heldout: boolean;
  /** That of a uniform guess on the same texts; NaN where not known. */
  uniform: number;
  style: LineStyle;
}

/** None is dotted: that is the uniform guess. */
const DASHES: readonly number[][] = [[], [7, 4], [9, 3, 2, 3], [3, 3]];

/** Pins take the colours from the other end. */
function styleOf(lens: number): LineStyle {
  return {
    color: LINE_COLORS[LINE_COLORS.length - 1 - (lens % LINE_COLORS.length)] as string,
    dash: DASHES[lens % DASHES.length] as number[],
  };
}

/** One score for each lens; none for the logit lens alone. */
export function scoresOf(store: RunStore<LensMeta>): Score[] {
  const { points, lenses = [], d_vocab } = store.meta;
  return lenses.map(({ name, heldout, uniform }, i) => {
    const data = new LensData(store, "", i);
    const own = () => points.map((_, point) => mean(data, "kl", point));
    return {
      name,
      values: heldout ? heldout.map((value) => value ?? Number.NaN) : own(),
      heldout: heldout !== null,
      uniform: heldout
        ? (uniform ?? Number.NaN)
        : Math.log(d_vocab) - mean(data, "entropy", points.length - 1),
      style: styleOf(i),
    };
  });
}

function mean(data: LensData, name: "kl" | "entropy", point: number): number {
  let sum = 0;
  for (let at = 0; at < data.positions; at++) sum += data.numbers(point, at)[name];
  return sum / data.positions;
}

/** Where a uniform guess lies, once for all lenses that were read on the same texts. */
export function guesses(scores: readonly Score[]): number[] {
  return [...new Set(scores.map(({ uniform }) => uniform).filter(Number.isFinite))];
}

/** Whether a lens does worse at a point than a uniform guess on the same texts. */
export function isWorse(score: Score | undefined, point: number): boolean {
  return score !== undefined && (score.values[point] ?? 0) > score.uniform;
}

/** What its number is, in words. */
export function scoreWords(score: Score): string {
  return score.heldout ? "KL held out" : "mean KL, this text";
}
