import { computed, type ReadonlySignal, signal } from "@preact/signals";
import { type Palette, paletteOf } from "../../theme/palette";
import type { Session } from "../../wire/session";
import type { CommonMeta, CommonTraits } from "../../wire/types";

/**
 * The state of one view: what is synced lives in the session's traits, what belongs to this screen
 * only (the list of keys, what is read out) lives here and is never sent.
 */
export class BaseState<T extends CommonTraits = CommonTraits, M extends CommonMeta = CommonMeta> {
  readonly palette: ReadonlySignal<Palette>;
  readonly meta: ReadonlySignal<M | null>;
  readonly help = signal(false);
  readonly announced = signal("");

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
  }

  /** Whether a run is waiting or under way. */
  busy(): boolean {
    const { state } = this.session.traits.status.value;
    return state === "running" || state === "queued";
  }
}
