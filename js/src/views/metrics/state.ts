import { computed, type ReadonlySignal, type Signal, signal } from "@preact/signals";
import type { ArrayInfo, MetricsMeta, MetricsTraits } from "../../wire/metrics";
import type { Session } from "../../wire/session";
import type { Anchor } from "../common/canvasgrid";
import { BaseState } from "../common/state";
import { toggled } from "./catalogue";
import { MetricsData } from "./data";
import { isGrid } from "./grid";
import { drawn, type Panel, panelsOf } from "./grouping";

/** The state of one view of metrics. */
export class MetricsState extends BaseState<MetricsTraits, MetricsMeta> {
  readonly data: ReadonlySignal<MetricsData | null>;
  readonly panels: ReadonlySignal<Panel[]>;
  /** The layers of the axis that all curves share. */
  readonly places: ReadonlySignal<number[]>;
  /** Matrices and head grids. */
  readonly grids: ReadonlySignal<ArrayInfo[]>;
  /** The one that is shown. */
  readonly grid: ReadonlySignal<ArrayInfo | null>;
  /** The layer under the pointer, in whatever part of the view. */
  readonly over: Signal<number | null> = signal(null);
  /** The layer that numbers are read out for: under the pointer, else the selected one. */
  readonly read: ReadonlySignal<number | null>;
  /** The cell under the pointer in the grid. */
  readonly hover: Signal<Anchor | null> = signal(null);
  /** The column that was last gone to in a matrix; its row is the layer. */
  readonly column = signal(-1);
  /** Which entry of a third axis the grid shows. */
  readonly entry: ReadonlySignal<number>;
  readonly chosenEntry = signal(0);
  readonly picking = signal(false);

  constructor(session: Session<MetricsTraits, MetricsMeta>, dark: ReadonlySignal<boolean>) {
    super(session, dark);
    const { traits } = session;
    this.data = computed(() => (session.store.value ? new MetricsData(session.store.value) : null));
    this.panels = computed(() => (this.data.value ? panelsOf(this.data.value.meta) : []));
    this.places = computed(() => {
      const arrays = this.data.value?.meta.arrays ?? [];
      return this.data.value?.places(arrays.filter(drawn)) ?? [];
    });
    this.grids = computed(() => {
      const arrays = this.data.value?.meta.arrays ?? [];
      return arrays.filter(isGrid);
    });
    this.grid = computed(() => {
      const grids = this.grids.value;
      return grids.find(({ name }) => name === traits.focus.value) ?? grids[0] ?? null;
    });
    this.entry = computed(() => {
      const size = this.data.value?.size(this.grid.value?.dims[2] ?? "") ?? 0;
      return this.chosenEntry.value < size ? this.chosenEntry.value : 0;
    });
    this.read = computed(() => this.over.value ?? this.selected());
  }

  /** The selected layer, if this model has it; linked views also count what is not a layer. */
  selected(): number | null {
    const layer = this.session.traits.layer.value;
    const last = this.places.value.at(-1) ?? (this.meta.value?.n_layers ?? 0) - 1;
    return layer >= 0 && layer <= last ? layer : null;
  }

  /** Go to a layer; the embedding is none. */
  select(layer: number, when: "now" | "soon" = "soon"): void {
    if (layer >= 0) this.session.write({ layer }, when);
  }

  /** Move the selection by some layers; from nowhere it begins at the first. */
  step(by: number): void {
    const last = this.places.peek().at(-1) ?? 0;
    const at = this.session.traits.layer.peek();
    if (at < 0 && Number.isFinite(by)) this.select(by < 0 ? last : 0);
    else this.select(Math.min(last, Math.max(0, at + by)));
  }

  shown(name: string): boolean {
    return !this.session.traits.hidden.value.includes(name);
  }

  toggleLine(name: string): void {
    const hidden = this.session.traits.hidden.peek();
    const without = hidden.filter((other) => other !== name);
    const next = without.length === hidden.length ? [...hidden, name] : without;
    this.session.write({ hidden: next });
  }

  /** Show one panel or grid large, or no longer. */
  toggleFocus(name: string): void {
    const { focus } = this.session.traits;
    this.session.write({ focus: focus.peek() === name ? "" : name });
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
