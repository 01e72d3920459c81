import { freeAxis, logAxis, usualAxis, usualRange, type ValueAxis } from "../../marks/axes";
import type { ChartLine } from "../../marks/chart";
import { spotsOf } from "../../marks/places";
import { type LineStyle, lineStyle } from "../../theme/palette";
import type { ArraysData } from "./data";
import type { Panel, PanelLine } from "./grouping";
import type { ArraysState } from "./state";

const OTHER_DASH = [7, 4];

/** Colour and dash; where two models are drawn, the dash is the second one's. */
export function styleOf(line: PanelLine, panel: Panel, both: boolean): LineStyle {
  const style = lineStyle(line.color);
  const paired = both && panel.lines.some(({ array }) => array.other);
  if (line.array.other) return { ...style, dash: OTHER_DASH };
  const alone = panel.lines.filter(({ array }) => !array.other).length === 1;
  return paired || alone ? { ...style, dash: [] } : style;
}

/** The lines of a panel that are drawn, those of the second model among them where it is laid over. */
export function visibleLines(state: ArraysState, panel: Panel): PanelLine[] {
  return panel.lines.filter(({ array }) => state.overlaid() || !array.other);
}

/** The places of a panel's axis: layers, or the entries of its own. */
export function placesOf(state: ArraysState, data: ArraysData, { dim }: Panel): number[] {
  if (!dim) return state.places.value;
  return Array.from({ length: data.size(dim) }, (_, i) => i);
}

/** Where entries of an axis that are numbers stand along it; absent where their order says it. */
export function standingOf(data: ArraysData, dim: string): number[] | undefined {
  const { labels = [], role = "", tokens } = data.meta.axes[dim] ?? {};
  return (!role && !tokens && spotsOf(labels.map(Number))) || undefined;
}

/** The numbers of a curve at the places of its axis. */
export function chartLine(
  data: ArraysData,
  places: readonly number[],
  line: PanelLine,
  style: LineStyle,
  dots?: boolean,
): ChartLine {
  const { array, k } = line;
  const asked = places.map((place) => data.find(array, place, k) !== null);
  const values = places.map((place, i) => (asked[i] ? data.atPlace(array, place, k) : undefined));
  if (!array.interval) return { style, values, dots };
  const ends = places.map((place) => data.intervalAtPlace(array, place, k));
  const low = ends.map((end, i) => (asked[i] ? (end?.low ?? null) : undefined));
  const high = ends.map((end, i) => (asked[i] ? (end?.high ?? null) : undefined));
  return { style, values, dots, band: { low, high } };
}

/** A logarithm only where every number has one, and where they are of several sizes. */
export function axisOf(
  lines: readonly ChartLine[],
  log: boolean,
  shared = false,
  unclipped = false,
): ValueAxis {
  let [low, high] = [Number.POSITIVE_INFINITY, Number.NEGATIVE_INFINITY];
  for (const { values } of lines) {
    for (const value of values) {
      if (value == null || Number.isNaN(value)) continue;
      low = Math.min(low, value);
      high = Math.max(high, value);
    }
  }
  if (log && low > 0 && high >= 10 * low) return logAxis(low, high);
  const usual = unclipped ? null : usualRange(lines.map(({ values }) => values));
  if (usual) return usualAxis(usual);
  return shared && low <= high ? usualAxis([low, high]) : freeAxis();
}
