import { deflateSync } from "node:zlib";
import type { LensMeta } from "../src/wire/lens";
import type { AfmModel, ArrayHeader, CommonMeta, FrameHeader } from "../src/wire/types";

export function makeMeta(over: Partial<LensMeta> = {}): LensMeta {
  return {
    run: 1,
    model: "toy",
    model_type: "llama",
    dtype: "float32",
    n_layers: 1,
    d_vocab: 100,
    notes: [],
    tokens: [
      { id: 1, text: "<s>", cont: false },
      { id: 2, text: " Paris", cont: false },
    ],
    points: ["embed", "0_post", "final"],
    layers: [-1, 0, 1],
    k: 2,
    tracked: [{ id: 7, text: " x" }],
    source: "",
    question: "",
    cost: "1 forward pass",
    code: "ll.logit_lens(model, text)",
    checks: [],
    ...over,
  };
}

/** A frame with the top tokens of one row: ids 10·row + k, probabilities 0.5 and 0.25. */
export function makeRow(row: number, seq = row + 1, over: Partial<FrameHeader> = {}) {
  const ids = new Uint32Array([10 * row, 10 * row + 1, 10 * row, 10 * row + 1]);
  const logs = new Float32Array([0.5, 0.25, 0.5, 0.25].map(Math.log));
  const dims = ["point", "position", "k"];
  const where = { dims, start: [row, 0, 0], shape: [1, 2, 2] };
  const arrays: ArrayHeader[] = [
    { name: "token_id", dtype: "uint32", ...where },
    { name: "logprob", dtype: "float32", ...where },
  ];
  const header: FrameHeader = {
    run: 1,
    seq,
    last: row === 2,
    arrays,
    vocab: { [10 * row]: ` tok${row}` },
    ...over,
  };
  return { header, buffers: [new DataView(ids.buffer), new DataView(logs.buffer)] };
}

export function pack(
  meta: CommonMeta,
  rows: { header: FrameHeader; buffers: DataView[] }[],
): Uint8Array {
  const text = JSON.stringify({ meta, frames: rows.map((row) => row.header) });
  const bytes = new TextEncoder().encode(text);
  const length = bytes.length + ((8 - ((4 + bytes.length) % 8)) % 8);
  const head = new Uint8Array(4 + length).fill(32);
  new DataView(head.buffer).setUint32(0, length, true);
  head.set(bytes, 4);
  const parts = [head];
  for (const { buffers } of rows) {
    for (const view of buffers) {
      const padded = new Uint8Array(Math.ceil(view.byteLength / 8) * 8);
      padded.set(new Uint8Array(view.buffer, view.byteOffset, view.byteLength));
      parts.push(padded);
    }
  }
  return new Uint8Array(deflateSync(Buffer.concat(parts)));
}

type Listener = (...args: never[]) => void;

/** A model as anywidget gives it, with what was sent and synced written down. */
export class FakeModel implements AfmModel {
  readonly sent: Record<string, unknown>[] = [];
  readonly saved: Record<string, unknown>[] = [];
  #dirty: Record<string, unknown> = {};
  readonly #listeners = new Map<string, Set<Listener>>();

  constructor(readonly state: Record<string, unknown> = {}) {}

  get(name: string) {
    return this.state[name];
  }

  set(name: string, value: unknown) {
    this.state[name] = value;
    this.#dirty[name] = value;
  }

  save_changes() {
    this.saved.push(this.#dirty);
    this.#dirty = {};
  }

  send(content: unknown) {
    this.sent.push(content as Record<string, unknown>);
  }

  on(event: string, callback: Listener) {
    const set = this.#listeners.get(event) ?? new Set();
    set.add(callback);
    this.#listeners.set(event, set);
  }

  off(event?: string | null, callback?: Listener | null) {
    if (event && callback) this.#listeners.get(event)?.delete(callback);
  }

  /** The kernel sets a trait. */
  push(name: string, value: unknown) {
    this.state[name] = value;
    for (const listener of this.#listeners.get(`change:${name}`) ?? []) listener();
  }

  /** The kernel sends a message. */
  message(content: unknown, buffers: DataView[] = []) {
    for (const listener of this.#listeners.get("msg:custom") ?? []) {
      (listener as (c: unknown, b: DataView[]) => void)(content, buffers);
    }
  }

  get listening(): number {
    let count = 0;
    for (const set of this.#listeners.values()) count += set.size;
    return count;
  }
}
