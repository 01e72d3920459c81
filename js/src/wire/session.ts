import { computed, type ReadonlySignal, type Signal, signal } from "@preact/signals";
import { unpack } from "./packed";
import { Pulse } from "./pulse";
import { type Reply, Rpc } from "./rpc";
import { RunStore } from "./store";
import { type TraitSignals, Traits } from "./traits";
import type { AfmModel, CommonMeta, CommonTraits, FrameHeader, WireSpec } from "./types";

export type Answer = { asked: true } | { reply: Reply } | { problem: string };

/**
 * One model's connection: made once in `initialize`, shared by all its views.
 *
 * Holds what was received (`store`), counts changes of it (`version`), and keeps the last thing
 * that went wrong on the page itself (`fault`).
 */
export class Session<T extends CommonTraits = CommonTraits, M extends CommonMeta = CommonMeta> {
  readonly traits: TraitSignals<T>;
  readonly rpc: Rpc;
  readonly pulse: Pulse;
  /** Whether a kernel answers. */
  readonly live: ReadonlySignal<boolean>;
  readonly store: Signal<RunStore<M> | null> = signal(null);
  readonly version: Signal<number> = signal(0);
  readonly fault: Signal<string> = signal("");
  /** What the kernel was asked about the present run, once each and for all views. */
  readonly answers: Signal<ReadonlyMap<string, Answer>> = signal(new Map());
  readonly #traits: Traits<T>;
  #early: { frame: FrameHeader; buffers: DataView[] }[] = [];
  #pulled = 0;
  #stop: (() => void)[] = [];

  constructor(
    private readonly model: AfmModel,
    private readonly spec: WireSpec<T, M>,
  ) {
    this.#traits = new Traits(model, spec.defaults);
    this.traits = this.#traits.signals;
    this.pulse = new Pulse(() => this.#post({ kind: "ping" }));
    this.live = computed(() => this.traits.live.value && this.pulse.lost.value !== "gone");
    this.rpc = new Rpc(
      (content) => this.#question(content),
      () => this.live.value,
    );
    this.#listen("msg:custom", (message: unknown, buffers?: DataView[]) => {
      this.pulse.heard();
      this.#receive(message, buffers ?? []);
    });
    this.#listen("change:status", () => this.pulse.heard());
    // What ipywidgets' own hosts say when the kernel is restarted, shut down or found again.
    this.#listen("comm_live_update", () => this.traits.live.peek() && this.pulse.doubt());
    this.#stop.push(this.pulse.lost.subscribe((lost) => lost === "gone" && this.rpc.abandon()));
    this.#stop.push(this.traits.meta.subscribe((meta) => this.#begin(meta)));
    this.#stop.push(this.traits.snapshot.subscribe((bytes) => void this.#restore(bytes)));
    this.#ready();
  }

  write(values: Partial<T>, when: "now" | "soon" = "now"): void {
    this.#traits.write(values, when);
  }

  /** Change what is asked; the kernel starts by itself. */
  put(values: Partial<T>): void {
    if (!this.live.peek()) return;
    this.#traits.write(values);
    this.pulse.expect();
  }

  /** What the host holds under a name that is no setting of the view, as text. */
  held(name: string): string {
    return String(this.model.get(name) ?? "");
  }

  send(content: unknown): void {
    if (this.live.peek()) this.#post(content);
  }

  /** Put a question: what changed goes as traits, and the same one again as a message. */
  run(question: Partial<T>): void {
    const changed = Object.entries(question).filter(
      ([name, value]) => this.traits[name as keyof T].value !== value,
    );
    if (changed.length > 0) this.put(Object.fromEntries(changed) as Partial<T>);
    else this.#question({ kind: "run", ...question });
  }

  #question(content: unknown): void {
    this.send(content);
    if (this.live.peek()) this.pulse.expect();
  }

  /** Send, and say whether that was possible: a connection that is closed raises. */
  #post(content: unknown): boolean {
    try {
      this.model.send(content);
      return true;
    } catch {
      this.pulse.gone();
      return false;
    }
  }

  #listen(event: string, callback: (...args: never[]) => void): void {
    this.model.on(event, callback);
    this.#stop.push(() => this.model.off(event, callback));
  }

  /** Ask something about the present run, unless that has been asked before. */
  async ask(key: string, method: string, params: unknown, signal?: AbortSignal): Promise<void> {
    if (this.answers.peek().has(key)) return;
    const mine: Answer = { asked: true };
    const note = (answer: Answer | null) => {
      const answers = new Map(this.answers.peek());
      if (answer) answers.set(key, answer);
      else answers.delete(key);
      this.answers.value = answers;
    };
    // A new run forgets the questions about the last, and one taken back may be asked anew.
    const waiting = () => this.answers.peek().get(key) === mine;
    note(mine);
    signal?.addEventListener("abort", () => waiting() && note(null), { once: true });
    try {
      const reply = await this.rpc.request(method, params, signal);
      if (waiting()) note({ reply });
    } catch (error) {
      const { name, message } = error as Error;
      if (waiting()) note(name === "AbortError" ? null : { problem: message });
    }
  }

  cancel(): void {
    this.send({ kind: "cancel", run: this.traits.status.value.run });
  }

  dispose(): void {
    for (const stop of this.#stop) stop();
    this.rpc.dispose();
    this.pulse.dispose();
    this.#traits.dispose();
  }

  #ready(): void {
    const store = this.store.value;
    this.send({ kind: "ready", run: store?.meta.run ?? 0, seq: store?.seq ?? 0 });
  }

  /** A new run empties the picture; the same run with new meta (its checks) keeps the numbers. */
  #begin(meta: object): void {
    const current = this.store.peek();
    if (!this.spec.isMeta(meta)) {
      // What a run had only begun is taken back, and there was nothing before it.
      if (current && !current.complete) this.store.value = null;
      return;
    }
    if (current && current.meta.run === meta.run) {
      Object.assign(current.meta, meta);
      this.version.value++;
      return;
    }
    const store = new RunStore({ ...meta }, this.spec);
    // Names of tokens stay true from run to run: one widget shows one model.
    for (const [id, text] of current?.vocab ?? []) {
      if (!store.vocab.has(id)) store.vocab.set(id, text);
    }
    this.store.value = store;
    this.answers.value = new Map();
    this.version.value++;
    this.fault.value = "";
    const early = this.#early;
    this.#early = [];
    for (const { frame, buffers } of early) this.#apply(frame, buffers);
  }

  #receive(message: unknown, buffers: DataView[]): void {
    if (typeof message !== "object" || message === null) return;
    const content = message as Record<string, unknown>;
    if (content.kind === "frame") this.#apply(content as unknown as FrameHeader, buffers);
    else if (content.kind === "reply" || content.kind === "error") {
      this.rpc.receive(content, buffers);
    }
  }

  #apply(frame: FrameHeader, buffers: readonly (DataView | Uint8Array)[]): void {
    const store = this.store.peek();
    if (!store || frame.run > store.meta.run) {
      // A frame may overtake the trait that announces its run; it is kept until that arrives.
      this.#early.push({ frame, buffers: buffers as DataView[] });
      return;
    }
    try {
      const outcome = store.apply(frame, buffers);
      if (outcome === "gap") this.#pull(frame.run);
      if (outcome === "applied") this.version.value++;
    } catch (error) {
      this.fault.value = `A part of the picture could not be read. ${(error as Error).message}`;
    }
  }

  /** Ask once a run for every frame again. */
  #pull(run: number): void {
    if (this.#pulled === run) return;
    this.#pulled = run;
    this.rpc
      .request("pull", { run })
      .catch((error: Error) => {
        if (error.name !== "AbortError") this.fault.value = error.message;
      })
      .finally(() => {
        this.#pulled = 0;
      });
  }

  async #restore(bytes: DataView | Uint8Array | null): Promise<void> {
    if (!bytes || bytes.byteLength === 0) return;
    try {
      const packed = await unpack(bytes);
      const current = this.store.peek();
      if (current && current.meta.run === packed.meta.run && current.complete) return;
      if (current && current.meta.run > packed.meta.run && this.live.peek()) return;
      this.store.value = RunStore.of(packed, this.spec);
      this.version.value++;
    } catch (error) {
      this.fault.value = `The saved picture could not be read. ${(error as Error).message}`;
    }
  }
}
