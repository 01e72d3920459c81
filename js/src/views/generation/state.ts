import { computed, type ReadonlySignal, type Signal } from "@preact/signals";
import { plain } from "../../marks/text";
import { type Cell, clamp } from "../../marks/windowing";
import type { GenerationMeta, GenerationTraits } from "../../wire/generation";
import type { LensMeta, LensTraits } from "../../wire/lens";
import type { Session } from "../../wire/session";
import type { RunStore } from "../../wire/store";
import type { TokenName } from "../../wire/types";
import type { LensData } from "../lens/data";
import { ViewState } from "../lens/state";
import { GenerationData } from "./data";
import type { When } from "./exits";

/** What is pointed at in a text that is written, and how it goes on. */
export class GenerationState extends ViewState {
  constructor(
    readonly own: Session<GenerationTraits, GenerationMeta>,
    dark: ReadonlySignal<boolean>,
  ) {
    super(own as unknown as Session<LensTraits, LensMeta>, dark);
  }

  /** When the model could have stopped, as it is chosen. */
  readonly when: ReadonlySignal<When> = computed(() => {
    const { rule, threshold, min_layers } = this.own.traits;
    return { rule: rule.value, threshold: threshold.value, least: min_layers.value };
  });

  /** The numbers of the run that is shown. */
  get written(): GenerationData | null {
    return this.data.value as GenerationData | null;
  }

  protected override get place(): Signal<number> {
    return this.own.traits.step;
  }

  /** How many tokens there are, by which alone a choice that follows them changes. */
  readonly #count = computed(() => {
    this.own.version.value;
    return this.written?.written ?? 0;
  });
  readonly #room = computed(() => {
    this.own.version.value;
    return this.written?.positions ?? 0;
  });

  /** Without a choice it is the newest token, while it writes too. */
  protected override column(): number {
    const step = this.place.value;
    if (step < 0) return Math.max(0, this.#count.value - 1);
    return clamp(step, 0, Math.max(0, this.#room.value - 1));
  }

  protected override placed(step: number): Partial<LensTraits> {
    return { step } as Partial<GenerationTraits>;
  }

  protected override makeData(store: RunStore<LensMeta>): LensData {
    return new GenerationData(store as unknown as RunStore<GenerationMeta>);
  }

  /** All that is known was received with the columns. */
  override async askTracks(): Promise<void> {}

  override colorBy(): void {}

  override noBranch({ position }: Cell, id: number): string {
    if (!this.own.live.value)
      return "Writing on needs a running kernel; run the cell of this view.";
    const data = this.written;
    if (!data || position >= data.written) return "This token has not been written yet.";
    if (id === data.targetId(position) && !this.#drawn()) {
      return "This is what was written; the best token is taken each time, so it would be the same.";
    }
    return "";
  }

  #drawn(): boolean {
    return (this.own.traits.options.peek().temperature ?? 0) > 0;
  }

  override readonly branch = ({ position }: Cell, id: number): void => {
    const data = this.written;
    if (!data || this.noBranch({ point: 0, position }, id)) return;
    const { tokens } = data.meta;
    const options = this.own.traits.options.peek();
    const same = id === data.targetId(position);
    this.popup.value = null;
    this.announced.value = `Writing on from ${plain(data.tokenName(id))} at token ${position}.`;
    this.own.put({
      before: tokens.map(({ id, text }) => ({ id, text })),
      begin: [...tokens.slice(0, position).map((token) => token.id), id],
      // Drawn with the same seed, the same text would come again.
      ...(same ? { options: { ...options, seed: (options.seed ?? 0) + 1 } } : {}),
      step: position,
    });
  };

  /** The first token that is another one than before the branch; -1 without one. */
  parted(): number {
    const before = this.own.traits.before.value;
    if (before.length === 0) return -1;
    const now = this.written?.meta.tokens ?? [];
    const first = before.findIndex(
      (token, step) => step < now.length && token.id !== now[step]?.id,
    );
    return first;
  }

  /** What "Write" asks beside the text: all is the model's own again. */
  afresh(): { begin?: number[]; before?: TokenName[] } {
    const { begin, before } = this.own.traits;
    return begin.value.length + before.value.length > 0 ? { begin: [], before: [] } : {};
  }
}
