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
  return (store.meta.lenses ?? []).map(({ name, heldout }, i) => ({
    name,
    values: heldout ? heldout.map((value) => value ?? Number.NaN) : meanKl(store, i),
    heldout: heldout !== null,
    style: styleOf(i),
  }));
}

function meanKl(store: RunStore<LensMeta>, lens: number): number[] {
  const data = new LensData(store, "", lens);
  return store.meta.points.map((_, point) => {
    let sum = 0;
    for (let at = 0; at < data.positions; at++) sum += data.numbers(point, at).kl;
    return sum / data.positions;
  });
}

/** Whether a lens does worse at a point than a uniform guess, which is ln V away at most. */
export function isWorse(score: Score | undefined, point: number, vocabulary: number): boolean {
  return (score?.values[point] ?? 0) > Math.log(vocabulary);
}

/** What its number is, in words. */
export function scoreWords(score: Score): string {
  return score.heldout ? "KL held out" : "mean KL, this text";
}
