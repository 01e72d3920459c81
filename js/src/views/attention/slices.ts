import { type Signal, signal } from "@preact/signals";
import {
  type AttentionMeta,
  type AttentionTraits,
  type SliceKey,
  sliceName,
} from "../../wire/attention";
import { toBytes } from "../../wire/decode";
import type { Session } from "../../wire/session";
import { Slice, type SliceHeader, unpackSlice } from "../../wire/slice";

/** How many bytes of weights are kept here; the kernel has the rest. */
const KEPT = 96 * 2 ** 20;
/** Questions under way at once: a slider that is dragged passes layers nobody waits for. */
const AT_ONCE = 2;
/** How the kernel says that a layer comes later. */
const LATER = /^not yet/i;

/** The weights that have come, layer by layer, and those that are wanted. */
export class Slices {
  /** Counts what has changed. */
  readonly version: Signal<number> = signal(0);
  /** By name, in the order of their last use. */
  readonly #held = new Map<string, Slice>();
  readonly #problems = new Map<string, string>();
  /** Layers that the run had not reached when they were asked for. */
  readonly #later = new Set<string>();
  readonly #asked = new Map<string, AbortController>();
  #wanted: readonly SliceKey[] = [];
  #bytes = 0;
  #run = 0;

  constructor(private readonly session: Session<AttentionTraits, AttentionMeta>) {}

  /** What is there of a layer. Reads `version`, changes nothing that is drawn. */
  get(key: SliceKey): Slice | null {
    this.version.value;
    if ((this.session.store.value?.meta.run ?? 0) !== this.#run) return null;
    const name = sliceName(key);
    const slice = this.#held.get(name) ?? this.#saved(name);
    if (!slice) return null;
    this.#held.delete(name);
    this.#held.set(name, slice);
    return slice;
  }

  /** Why a layer cannot be had; empty while it may come. */
  problem(key: SliceKey): string {
    this.version.value;
    return this.#problems.get(sliceName(key)) ?? "";
  }

  /** Say which layers are wanted, the most wanted first. */
  want(keys: readonly SliceKey[]): void {
    this.#begin();
    this.#wanted = keys;
    this.#ask();
  }

  /** The run has come further: what it had not reached may be there now. */
  again(): void {
    this.#later.clear();
    this.#ask();
  }

  dispose(): void {
    this.#wanted = [];
    for (const controller of this.#asked.values()) controller.abort();
    this.#asked.clear();
  }

  /** Weights belong to one run. */
  #begin(): void {
    const run = this.session.store.peek()?.meta.run ?? 0;
    if (run === this.#run) return;
    this.dispose();
    this.#run = run;
    this.#held.clear();
    this.#problems.clear();
    this.#later.clear();
    this.#bytes = 0;
    this.#changed();
  }

  #changed(): void {
    this.version.value = this.version.peek() + 1;
  }

  #saved(name: string): Slice | null {
    const packed = this.session.store.peek()?.meta.slices?.[name];
    if (!packed) return null;
    const slice = unpackSlice(packed);
    this.#keep(name, slice);
    return slice;
  }

  #keep(name: string, slice: Slice): void {
    this.#held.set(name, slice);
    this.#bytes += slice.heads * slice.size;
    for (const [old, { heads, size }] of this.#held) {
      if (this.#bytes <= KEPT || old === name) break;
      this.#held.delete(old);
      this.#bytes -= heads * size;
    }
  }

  #ask(): void {
    for (const key of this.#wanted) {
      if (this.#asked.size >= AT_ONCE || !this.session.live.peek()) return;
      const name = sliceName(key);
      const known = this.#held.has(name) || this.#problems.has(name) || this.#later.has(name);
      if (!known && !this.#asked.has(name) && !this.#saved(name)) void this.#fetch(name, key);
    }
  }

  async #fetch(name: string, key: SliceKey): Promise<void> {
    const controller = new AbortController();
    this.#asked.set(name, controller);
    try {
      const { result, buffers } = await this.session.rpc.request("slice", key, controller.signal);
      if (controller.signal.aborted) return;
      const bytes = buffers[0];
      if (!bytes) throw new Error("The kernel sent a layer without its weights.");
      this.#keep(name, new Slice(result as SliceHeader, toBytes(bytes)));
    } catch (error) {
      if (controller.signal.aborted) return;
      const { message } = error as Error;
      if (LATER.test(message)) this.#later.add(name);
      else this.#problems.set(name, message);
    }
    this.#asked.delete(name);
    this.#changed();
    this.#ask();
  }
}
