import { type Signal, signal } from "@preact/signals";
import type { AfmModel, CommonTraits } from "./types";

/** How long a dragged control waits before its value is sent, in milliseconds. */
const DEBOUNCE = 80;

export type TraitSignals<T> = { readonly [K in keyof T]: Signal<T[K]> };

/** The synced state of one model as signals; writing goes through `write` so that Python sees it. */
export class Traits<T extends CommonTraits> {
  readonly signals: TraitSignals<T>;
  readonly #unsubscribe: (() => void)[] = [];
  /** What is shown here already and not sent yet. */
  readonly #unsent = new Map<string, unknown>();
  #timer: ReturnType<typeof setTimeout> | undefined;

  constructor(
    private readonly model: AfmModel,
    private readonly defaults: T,
  ) {
    const signals: Record<string, Signal<unknown>> = {};
    for (const name of Object.keys(defaults) as (keyof T & string)[]) {
      const own = signal<unknown>(this.#read(name));
      signals[name] = own;
      // The arguments of change handlers differ between hosts: always read the model again.
      const update = () => {
        // The kernel's answer to what was sent before is older than what is being moved now.
        const unsent = this.#unsent.get(name);
        if (this.#unsent.has(name) && model.get(name) !== unsent) model.set(name, unsent);
        own.value = this.#read(name);
      };
      model.on(`change:${name}`, update);
      this.#unsubscribe.push(() => model.off(`change:${name}`, update));
    }
    this.signals = signals as TraitSignals<T>;
  }

  #read(name: keyof T & string): unknown {
    return this.model.get(name) ?? this.defaults[name];
  }

  /** Set traits here at once and in the kernel now, or a little later while something is dragged. */
  write(values: Partial<T>, when: "now" | "soon" = "now"): void {
    for (const [name, value] of Object.entries(values)) {
      const own = (this.signals as Record<string, Signal<unknown>>)[name];
      if (own) own.value = value;
      this.#unsent.set(name, value);
      this.model.set(name, value);
    }
    clearTimeout(this.#timer);
    this.#timer = undefined;
    if (when === "now") this.#send();
    else this.#timer = setTimeout(() => this.#send(), DEBOUNCE);
  }

  #send(): void {
    this.#timer = undefined;
    this.#unsent.clear();
    this.model.save_changes();
  }

  dispose(): void {
    if (this.#timer !== undefined) {
      clearTimeout(this.#timer);
      this.#send();
    }
    for (const stop of this.#unsubscribe) stop();
  }
}
