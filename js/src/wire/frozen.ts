import type { AfmModel } from "./types";

type Listener = (...args: never[]) => void;

/** A model with no kernel behind it: state and change events, and messages that go nowhere. */
export class FrozenModel implements AfmModel {
  readonly #state: Map<string, unknown>;
  readonly #listeners = new Map<string, Set<Listener>>();

  constructor(state: Record<string, unknown>) {
    this.#state = new Map(Object.entries({ ...state, live: false }));
  }

  get(name: string): unknown {
    return this.#state.get(name);
  }

  set(name: string, value: unknown): void {
    if (this.#state.get(name) === value) return;
    this.#state.set(name, value);
    for (const listener of this.#listeners.get(`change:${name}`) ?? []) listener();
  }

  save_changes(): void {}

  send(): void {}

  on(event: string, callback: Listener): void {
    const set = this.#listeners.get(event) ?? new Set();
    set.add(callback);
    this.#listeners.set(event, set);
  }

  off(event?: string | null, callback?: Listener | null): void {
    if (!event) this.#listeners.clear();
    else if (!callback) this.#listeners.delete(event);
    else this.#listeners.get(event)?.delete(callback);
  }
}

/** A view that came with the page, where no kernel hands one over. */
export interface Embedded {
  traits: Record<string, unknown>;
  /** Its packed snapshot, base64. */
  packed: string;
}

/** The model of a view whose data came with the page. */
export async function frozenModel({ traits, packed }: Embedded): Promise<FrozenModel> {
  // The browser's own decoder is several times quicker than a loop in script.
  const response = packed && (await fetch(`data:application/octet-stream;base64,${packed}`));
  const snapshot = new Uint8Array(response ? await response.arrayBuffer() : []);
  return new FrozenModel({ ...traits, snapshot });
}
