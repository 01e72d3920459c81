import { computed, type ReadonlySignal, type Signal, signal } from "@preact/signals";
import type { Ends } from "../../marks/numbers";
import { type ColorScale, effectScale } from "../../theme/scale";
import type { AnswerMeta, AnswerTraits } from "../../wire/answer";
import type { ArrayInfo } from "../../wire/arrays";
import type { Session } from "../../wire/session";
import type { StripMeta, StripTraits } from "../../wire/strip";
import { AnswerState } from "../answer/state";
import { unitName } from "../arrays/data";
import type { Division } from "../arrays/state";
import { goTo, stepAt, stepName } from "../arrays/steps";
import { StripData } from "./data";

/** Rows of one unit, which have one scale so that they can be held against each other. */
export interface Group {
  rows: readonly ArrayInfo[];
  scale: ColorScale;
  ends: Ends | null;
}

/** The state of strips: which depth is drawn, which token is looked at, what colours mean. */
export class StripState extends AnswerState {
  readonly strip: ReadonlySignal<StripData | null>;
  /** The entry of the slider that is drawn. */
  readonly drawnStep: ReadonlySignal<number>;
  readonly groups: ReadonlySignal<Group[]>;
  /** The token that is looked at; -1 for none. */
  readonly item: ReadonlySignal<number>;
  /** The token under the pointer; -1 for none. */
  readonly pointed: Signal<number> = signal(-1);
  readonly own: Session<StripTraits, StripMeta>;

  constructor(session: Session<StripTraits, StripMeta>, dark: ReadonlySignal<boolean>) {
    // What a strip has beyond an answer is read through `own`.
    super(session as unknown as Session<AnswerTraits, AnswerMeta>, dark, BESIDE_STRIPS);
    this.own = session;
    const { layer, step, position, colors } = session.traits;
    this.strip = computed(() => {
      session.version.value;
      return session.store.value ? new StripData(session.store.value) : null;
    });
    this.drawnStep = computed(() => {
      const data = this.strip.value;
      if (!data) return 0;
      const chosen = { layer: layer.value, step: step.value };
      return stepAt(data.arrays, data.steps, chosen, () => data.first());
    });
    this.item = computed(() => this.strip.value?.itemAt(position.value) ?? -1);
    this.groups = computed(() => {
      const data = this.strip.value;
      const at = colors.value === "all" ? null : this.drawnStep.value;
      return data ? data.byUnit().map((rows) => this.#group(data, rows, at)) : [];
    });
  }

  #group(data: StripData, rows: readonly ArrayInfo[], step: number | null): Group {
    const ends = data.extent(rows, step);
    const { low, high } = ends ?? { low: 0, high: 0 };
    const reach = Math.max(-low, high) || 1;
    const name = rows.length > 1 ? "colours of these rows" : (rows[0]?.long_name ?? "");
    const unit = unitName(rows[0]?.units ?? "1");
    // Tokens have no marks for what lies past the colours: any sign gets some.
    const sides = low < 0 ? ([-reach, reach] as const) : ([low, high] as const);
    const scale = effectScale(this.palette.value, sides, [0, reach], name, unit);
    return { rows, scale, ends };
  }

  /** Go to an entry of the slider; other views follow to its layer. */
  goStep(step: number, when: "now" | "soon" = "soon"): void {
    const data = this.strip.peek();
    if (data) this.own.write(goTo(data.arrays, data.steps, step), when);
  }

  stepName(step: number): string {
    const data = this.strip.value;
    return data ? stepName(data.arrays, data.steps, step) : "";
  }

  /** Look at a token; other views follow to its position. */
  choose(item: number): void {
    const data = this.strip.peek();
    if (data && item >= 0 && item < data.size) {
      this.own.write({ position: data.arrays.number(data.items, item) });
    }
  }

  /** Show what the model itself says of a token of a row, where the analysis can. */
  openToken(row: ArrayInfo, item: number): void {
    const data = this.strip.peek();
    if (data && item >= 0) this.open(row, data.index(row, this.drawnStep.peek(), item));
  }
}

/** Strips take the arrays over layers and tokens, all others are curves or single numbers. */
const BESIDE_STRIPS: Division<AnswerMeta> = {
  grid: () => false,
  curve: ({ name, dims, dtype }, meta) => {
    const drawn = (meta as StripMeta).strip.rows.includes(name);
    return !drawn && dtype !== "token" && dims.length > 0 && dims.length < 3;
  },
  table: () => "",
};
