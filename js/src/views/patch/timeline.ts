import { computed, type ReadonlySignal, signal } from "@preact/signals";

/** Values that can be gone back to. Equal values (by their JSON) are one step. */
export class Timeline<T> {
  readonly canUndo: ReadonlySignal<boolean>;
  readonly canRedo: ReadonlySignal<boolean>;
  readonly #past = signal<readonly T[]>([]);
  readonly #future = signal<readonly T[]>([]);

  constructor(private now: T) {
    this.canUndo = computed(() => this.#past.value.length > 0);
    this.canRedo = computed(() => this.#future.value.length > 0);
  }

  /** A change, from here or from elsewhere; what had been undone is gone. */
  note(next: T): void {
    if (JSON.stringify(next) === JSON.stringify(this.now)) return;
    this.#past.value = [...this.#past.peek(), this.now];
    this.#future.value = [];
    this.now = next;
  }

  /** The value before the last change; undefined at the beginning. */
  undo(): T | undefined {
    const past = this.#past.peek();
    const value = past.at(-1);
    if (value === undefined) return undefined;
    this.#future.value = [...this.#future.peek(), this.now];
    this.#past.value = past.slice(0, -1);
    this.now = value;
    return value;
  }

  redo(): T | undefined {
    const future = this.#future.peek();
    const value = future.at(-1);
    if (value === undefined) return undefined;
    this.#past.value = [...this.#past.peek(), this.now];
    this.#future.value = future.slice(0, -1);
    this.now = value;
    return value;
  }
}
