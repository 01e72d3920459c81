import { computed, type ReadonlySignal, type Signal, signal } from "@preact/signals";
import type { AnswerMeta, AnswerTraits } from "../../wire/answer";
import type { ScatterMeta, ScatterTraits } from "../../wire/scatter";
import type { Session } from "../../wire/session";
import { AnswerState } from "../answer/state";
import { layerName } from "../arrays/data";
import type { Division } from "../arrays/state";
import { type Extent, ScatterData } from "./data";

/** The state of a scatter: which step is drawn, which marks are, and which one is looked at. */
export class ScatterState extends AnswerState {
  readonly scatter: ReadonlySignal<ScatterData | null>;
  /** The entry of the slider that is drawn. */
  readonly drawnStep: ReadonlySignal<number>;
  /** The ends of the axes. */
  readonly extent: ReadonlySignal<Extent | null>;
  /** Labels that are not drawn, by number. */
  readonly hiddenLabels: ReadonlySignal<ReadonlySet<number>>;
  /** The mark under the pointer; -1 for none. */
  readonly pointed: Signal<number> = signal(-1);
  readonly own: Session<ScatterTraits, ScatterMeta>;

  constructor(session: Session<ScatterTraits, ScatterMeta>, dark: ReadonlySignal<boolean>) {
    // What a scatter has beyond an answer is read through `own`.
    super(session as unknown as Session<AnswerTraits, AnswerMeta>, dark, BESIDE_MARKS);
    this.own = session;
    const { traits } = session;
    this.scatter = computed(() => {
      session.version.value;
      return session.store.value ? new ScatterData(session.store.value) : null;
    });
    this.drawnStep = computed(() => this.#step());
    this.extent = computed(() => {
      const data = this.scatter.value;
      return data?.extent(traits.axes.value === "one" ? this.drawnStep.value : null) ?? null;
    });
    this.hiddenLabels = computed(() => {
      const names = traits.hidden_labels.value;
      const labels = this.scatter.value?.meta.scatter.labels ?? [];
      return new Set(names.map((name) => labels.indexOf(name)));
    });
  }

  /** The layer that all views look at, else the step that was chosen here, else the newest. */
  #step(): number {
    const { traits } = this.own;
    const data = this.scatter.value;
    const arrays = this.data.value;
    if (!data || !arrays) return 0;
    const dim = data.meta.scatter.steps;
    const [layer, step] = [traits.layer.value, traits.step.value];
    const chosen = step >= 0 && step < data.steps;
    if (arrays.role(dim) === "layer" && layer >= 0) {
      // Several entries may be of one layer.
      if (chosen && arrays.number(dim, step) === layer) return step;
      const index = arrays.index(dim, layer);
      if (index >= 0) return index;
    }
    return chosen ? step : data.newest();
  }

  /** Go to an entry of the slider; other views follow to its layer. */
  goStep(step: number, when: "now" | "soon" = "soon"): void {
    const data = this.scatter.peek();
    const arrays = this.data.peek();
    if (!data || !arrays) return;
    const dim = data.meta.scatter.steps;
    const to = Math.min(data.steps - 1, Math.max(0, step));
    const layer = arrays.role(dim) === "layer" ? { layer: arrays.number(dim, to) } : {};
    this.own.write({ step: to, ...layer }, when);
  }

  /** What a step is called: "layer 5", "embed", "checkpoint 400". */
  stepName(step: number): string {
    const data = this.scatter.value;
    const arrays = this.data.value;
    if (!data || !arrays) return "";
    const dim = data.meta.scatter.steps;
    if (arrays.role(dim) !== "layer") return `${arrays.axisName(dim)} ${arrays.label(dim, step)}`;
    return layerName(arrays.number(dim, step));
  }

  /** 1 for marks that are drawn in a picture. */
  visible(picture: number): Uint8Array {
    const data = this.scatter.value;
    const found = new Uint8Array(data?.size ?? 0);
    if (!data) return found;
    const [hidden, fitted] = [this.hiddenLabels.value, this.own.traits.fitted.value];
    const labels = data.labels(picture);
    const depth = data.meta.scatter.colors === "depth";
    for (let item = 0; item < found.length; item++) {
      const shown = depth || !hidden.has(labels[item] as number);
      found[item] = Number(shown && (fitted || !data.isFitted(item)));
    }
    return found;
  }

  choose(item: number): void {
    this.own.write({ item });
  }

  /** The mark before or after one, among those that are drawn; the same where there is none. */
  beside(item: number, by: 1 | -1): number {
    const visible = this.visible(0);
    for (let next = item + by; next >= 0 && next < visible.length; next += by) {
      if (visible[next]) return next;
    }
    return visible[item] ? item : -1;
  }

  toggleLabel(name: string): void {
    const hidden = this.own.traits.hidden_labels.peek();
    const without = hidden.filter((other) => other !== name);
    const names = without.length === hidden.length ? [...hidden, name] : without;
    this.own.write({ hidden_labels: names });
  }

  /** Draw one label alone; again: all of them. */
  soloLabel(name: string): void {
    const labels = this.scatter.peek()?.meta.scatter.labels ?? [];
    const hidden = this.own.traits.hidden_labels.peek();
    const others = labels.filter((other) => other !== name);
    const alone = !hidden.includes(name) && others.every((other) => hidden.includes(other));
    this.own.write({ hidden_labels: alone ? [] : others });
  }
}

/** Arrays over the marks are drawn as these, all others as curves; marks that are layers as both. */
const BESIDE_MARKS: Division<AnswerMeta> = {
  grid: () => false,
  curve: ({ dims, dtype }, meta) => {
    const { items, colors } = (meta as ScatterMeta).scatter;
    const besides = colors === "depth" || !dims.includes(items);
    return dtype !== "token" && dims.length > 0 && dims.length < 3 && besides;
  },
  table: () => "",
};
