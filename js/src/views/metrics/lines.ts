import { freeAxis, logAxis, usualAxis, usualRange, type ValueAxis } from "../../marks/axes";
import type { ChartLine } from "../../marks/chart";
import { type LineStyle, lineStyle } from "../../theme/palette";
import type { MetricsData } from "./data";
import type { Panel, PanelLine } from "./grouping";
import type { MetricsState } from "./state";

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
export function visibleLines(state: MetricsState, panel: Panel): PanelLine[] {
  const overlay = state.session.traits.overlay.value;
  return panel.lines.filter(({ array }) => overlay || !array.other);
}

/** The numbers of a curve at the places of the common axis. */
export function chartLine(
  data: MetricsData,
  places: readonly number[],
  line: PanelLine,
  style: LineStyle,
): ChartLine {
  const { array, k } = line;
  const values = places.map((place) => data.atLayer(array, place, k));
  if (!array.interval) return { style, values };
  const intervals = places.map((place) => data.intervalAtLayer(array, place, k));
  const low = intervals.map((interval) => interval?.low ?? null);
  const high = intervals.map((interval) => interval?.high ?? null);
  return { style, values, band: { low, high } };
}

/** A logarithm only where every number has one, and where they are of several sizes. */
export function axisOf(lines: readonly ChartLine[], log: boolean): ValueAxis {
  let [low, high] = [Number.POSITIVE_INFINITY, 0];
  for (const { values } of lines) {
    for (const value of values) {
      if (value === null || Number.isNaN(value)) continue;
      low = Math.min(low, value);
      high = Math.max(high, value);
    }
  }
  if (log && low > 0 && high >= 10 * low) return logAxis(low, high);
  const usual = usualRange(lines.map(({ values }) => values));
  return usual ? usualAxis(usual) : freeAxis();
}
