import { computed, type ReadonlySignal, type Signal, signal } from "@preact/signals";
import type { AnswerMeta, AnswerTraits } from "../../wire/answer";
import type { ScatterMeta, ScatterTraits } from "../../wire/scatter";
import type { Session } from "../../wire/session";
import { AnswerState } from "../answer/state";
import type { Division } from "../arrays/state";
import { goTo, stepAt, stepName } from "../arrays/steps";
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
    const { layer, step } = this.own.traits;
    const [data, arrays] = [this.scatter.value, this.data.value];
    if (!data || !arrays) return 0;
    const chosen = { layer: layer.value, step: step.value };
    return stepAt(arrays, data.meta.scatter.steps, chosen, () => data.newest());
  }

  /** Go to an entry of the slider; other views follow to its layer. */
  goStep(step: number, when: "now" | "soon" = "soon"): void {
    const [data, arrays] = [this.scatter.peek(), this.data.peek()];
    if (data && arrays) this.own.write(goTo(arrays, data.meta.scatter.steps, step), when);
  }

  /** What a step is called: "layer 5", "embed", "checkpoint 400". */
  stepName(step: number): string {
    const [data, arrays] = [this.scatter.value, this.data.value];
    return data && arrays ? stepName(arrays, data.meta.scatter.steps, step) : "";
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
