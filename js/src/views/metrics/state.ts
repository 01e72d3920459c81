import { type ReadonlySignal, signal } from "@preact/signals";
import type { MetricsMeta, MetricsTraits } from "../../wire/metrics";
import type { Session } from "../../wire/session";
import { isCurve, isGrid, tableOf } from "../arrays/kinds";
import { ArraysState } from "../arrays/state";
import { toggled } from "./catalogue";

/** The state of one view of metrics. */
export class MetricsState extends ArraysState<MetricsTraits, MetricsMeta> {
  readonly picking = signal(false);

  constructor(session: Session<MetricsTraits, MetricsMeta>, dark: ReadonlySignal<boolean>) {
    super(session, dark, { grid: isGrid, curve: isCurve, table: tableOf });
  }

  override overlaid(): boolean {
    return this.session.traits.overlay.value;
  }

  /** What is measured, the default set by name. */
  chosen(): string[] {
    const { metrics } = this.session.traits;
    return metrics.value.length > 0 ? metrics.value : (this.meta.value?.metrics ?? []);
  }

  toggleMetric(name: string): void {
    if (!this.session.live.peek()) return;
    const before = this.chosen();
    const metrics = toggled(before, name);
    if (metrics.length === before.length) {
      this.announced.value = "One metric must stay.";
      return;
    }
    this.announced.value = `${metrics.length > before.length ? "Added" : "Took away"} ${name}.`;
    this.session.put({ metrics });
  }

  /** Measure other texts, or the same anew. */
  runTexts(texts: string[]): void {
    const now = this.session.traits.texts.peek();
    if (JSON.stringify(texts) === JSON.stringify(now)) this.session.run({});
    else this.session.put({ texts, text: texts.length === 1 ? (texts[0] ?? "") : "" });
  }
}
