import { type Signal, signal } from "@preact/signals";
import type { AfmModel, LensTraits } from "./types";

/** How long a dragged control waits before its value is sent, in milliseconds. */
const DEBOUNCE = 80;

const DEFAULTS: LensTraits = {
  view: "lens",
  text: "",
  options: {},
  title: "",
  row: -1,
  position: -1,
  layer: -1,
  pins: [],
  color: "probability",
  tracked: 0,
  transposed: false,
  theme: "auto",
  cell_width: 72,
  status: { state: "idle", run: 0, done: 0, total: 0, what: "", message: "", seconds: 0 },
  meta: {},
  snapshot: null,
  live: true,
};

export type TraitSignals = { readonly [K in keyof LensTraits]: Signal<LensTraits[K]> };

/** The synced state of one model as signals; writing goes through `write` so that Python sees it. */
export class Traits {
  readonly signals: TraitSignals;
  readonly #unsubscribe: (() => void)[] = [];
  #timer: ReturnType<typeof setTimeout> | undefined;

  constructor(private readonly model: AfmModel) {
    const signals: Record<string, Signal<unknown>> = {};
    for (const name of Object.keys(DEFAULTS) as (keyof LensTraits)[]) {
      const own = signal<unknown>(this.#read(name));
      signals[name] = own;
      // The arguments of change handlers differ between hosts: always read the model again.
      const update = () => {
        own.value = this.#read(name);
      };
      model.on(`change:${name}`, update);
      this.#unsubscribe.push(() => model.off(`change:${name}`, update));
    }
    this.signals = signals as unknown as TraitSignals;
  }

  #read(name: keyof LensTraits): unknown {
    return this.model.get(name) ?? DEFAULTS[name];
  }

  /** Set traits here at once and in the kernel now, or a little later while something is dragged. */
  write(values: Partial<LensTraits>, when: "now" | "soon" = "now"): void {
    for (const [name, value] of Object.entries(values)) {
      const own = (this.signals as Record<string, Signal<unknown>>)[name];
      if (own) own.value = value;
      this.model.set(name, value);
    }
    clearTimeout(this.#timer);
    this.#timer = undefined;
    if (when === "now") this.model.save_changes();
    else this.#timer = setTimeout(() => this.model.save_changes(), DEBOUNCE);
  }

  dispose(): void {
    if (this.#timer !== undefined) {
      clearTimeout(this.#timer);
      this.model.save_changes();
    }
    for (const stop of this.#unsubscribe) stop();
  }
}
