import { computed, type ReadonlySignal, signal } from "@preact/signals";
import { type Palette, paletteOf } from "../../theme/palette";
import type { Session } from "../../wire/session";
import type { CommonMeta, CommonTraits } from "../../wire/types";
import type { Beside } from "./floating";

/** A term whose meaning is shown, and what is said of it here, under what it stands. */
interface Defined extends Beside {
  term: string;
  note: string;
}

/**
 * The state of one view: what is synced lives in the session's traits, what belongs to this screen
 * only (the list of keys, what is read out) lives here and is never sent.
 */
export class BaseState<T extends CommonTraits = CommonTraits, M extends CommonMeta = CommonMeta> {
  readonly palette: ReadonlySignal<Palette>;
  readonly meta: ReadonlySignal<M | null>;
  readonly help = signal(false);
  readonly announced = signal("");
  /** The term whose meaning is shown, and where it stands in the view. */
  readonly defined = signal<Defined | null>(null);
  /** Whether a field holds what has not been asked yet. */
  readonly drafting = signal(false);
  /** Whether the picture answers another question than the one that is asked. */
  readonly outdated: ReadonlySignal<boolean>;

  constructor(
    readonly session: Session<T, M>,
    dark: ReadonlySignal<boolean>,
  ) {
    const { traits } = session;
    this.palette = computed(() => {
      const choice = traits.theme.value;
      return paletteOf(choice === "auto" ? dark.value : choice === "dark");
    });
    this.meta = computed(() => session.store.value?.meta ?? null);
    this.outdated = computed(() => {
      const asked = this.meta.value?.asked;
      return Object.entries({ ...asked?.inputs, ...asked?.options }).some(
        ([name, value]) => JSON.stringify(this.asking(name)) !== JSON.stringify(value),
      );
    });
  }

  /** A part of the question as the view's settings put it now. */
  protected asking(name: string): unknown {
    const now = this.session.traits as unknown as Record<string, ReadonlySignal<unknown>>;
    return now[name]?.value;
  }

  /** What the words of art in this view mean. */
  terms(): Readonly<Record<string, string>> {
    return this.meta.value?.terms ?? {};
  }

  /** The texts that the picture is about. */
  pictured(): string {
    return Object.values(this.meta.value?.asked?.inputs ?? {})
      .flat()
      .join(" / ");
  }

  /** Whether a run is waiting or under way. */
  busy(): boolean {
    const { state } = this.session.traits.status.value;
    return this.session.live.value && (state === "running" || state === "queued");
  }
}
