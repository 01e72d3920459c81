import { deflateSync } from "node:zlib";
import type { AnswerMeta } from "../src/wire/answer";
import type { ArrayInfo, AxisInfo } from "../src/wire/arrays";
import type { LensMeta } from "../src/wire/lens";
import type { CatalogueEntry, MetricsMeta } from "../src/wire/metrics";
import type { PatchMeta } from "../src/wire/patch";
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
    setup: "import layerlens as ll\n\nmodel = ll.load()\n",
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

/** A sweep of 3 layers over 4 positions, or over 2 heads. */
export function makePatchMeta(over: Partial<PatchMeta> = {}): PatchMeta {
  const tokens = (place: string) =>
    ["<s>", " of", place, " is"].map((text, id) => ({ id, text, cont: false }));
  return {
    run: 1,
    model: "toy",
    model_type: "llama",
    dtype: "float32",
    n_layers: 3,
    n_heads: 2,
    n_kv_heads: 1,
    clean_tokens: tokens(" France"),
    corrupt_tokens: tokens(" Italy"),
    differing: [2],
    patched: "corrupt",
    partners: [0, 1, 2, 3],
    site: "resid_pre",
    by: "position",
    rows: ["0", "1", "2"],
    columns: ["<s>", " of", " Italy", " is"],
    metric: {
      name: "logit_diff",
      long_name: "logit difference",
      units: "logit",
      clean: 4,
      corrupt: -2,
    },
    answer: { id: 7, text: " Paris" },
    wrong: { id: 8, text: " Rome" },
    direction: "clean into corrupted",
    notes: [],
    checks: [],
    code: "ll.patch_sweep(model)",
    setup: "import layerlens as ll\n\nmodel = ll.load()\n",
    source: "",
    question: "",
    cost: "",
    sites: ["resid_pre", "attn_out", "z"],
    ...over,
  };
}

/** The whole sweep: 0.1 recovered for each layer, and as much for each column. */
export function makeSweep(columns = 4, dim: "position" | "head" = "position") {
  const recovered = Float32Array.from({ length: 3 * columns }, (_, i) => {
    return 0.1 * Math.floor(i / columns) + 0.1 * (i % columns);
  });
  const metric = recovered.map((value) => 6 * value - 2);
  const where = { dims: ["layer", dim], start: [0, 0], shape: [3, columns] };
  const arrays: ArrayHeader[] = [
    { name: "metric", dtype: "float32", ...where },
    { name: "recovered", dtype: "float32", ...where },
  ];
  const header: FrameHeader = { run: 1, seq: 1, last: true, arrays, vocab: {} };
  return { header, buffers: [new DataView(metric.buffer), new DataView(recovered.buffer)] };
}

/** An estimate of every cell, and the true values of those of the first rows. */
export function makeEstimate(rows: number, columns = 4): Sent[] {
  const whole = { dims: ["layer", "position"], start: [0, 0] };
  const estimate = Float32Array.from({ length: 3 * columns }, (_, i) => 0.05 * i);
  const truth = estimate.slice(0, rows * columns).map((value) => 2 * value - 0.1);
  const header = (seq: number, last: boolean, arrays: ArrayHeader[]): FrameHeader => ({
    run: 1,
    seq,
    last,
    arrays,
    vocab: {},
  });
  const first: ArrayHeader = {
    name: "estimate",
    dtype: "float32",
    ...whole,
    shape: [3, columns],
  };
  const then = ["metric", "recovered"].map(
    (name): ArrayHeader => ({
      name,
      dtype: "float32",
      ...whole,
      shape: [rows, columns],
    }),
  );
  const buffer = new DataView(truth.buffer);
  return [
    { header: header(1, false, [first]), buffers: [new DataView(estimate.buffer)] },
    { header: header(2, true, then), buffers: [buffer, buffer] },
  ];
}

interface Sent {
  header: FrameHeader;
  buffers: DataView[];
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

function entry(name: string, over: Partial<CatalogueEntry> = {}): CatalogueEntry {
  return {
    name,
    long_name: name.replaceAll("_", " "),
    question: `What is ${name}?`,
    formula: "x",
    units: "1",
    source: "Someone (2024)",
    cost: "1 pass",
    axes: ["layer"],
    family: "residual stream",
    outputs: [name],
    why: "",
    ...over,
  };
}

export const CATALOGUE: CatalogueEntry[] = [
  entry("attn_ratio"),
  entry("mlp_ratio"),
  entry("residual_norm", { units: "activation", axes: ["point"] }),
  entry("cka", {
    axes: ["point", "point_other"],
    family: "similarity",
    source: "Kornblith (2019)",
  }),
  entry("induction", { axes: ["layer", "head"], family: "attention" }),
  entry("codes", { family: "MLP", why: "This model has no MLP." }),
];

export function makeArray(name: string, over: Partial<ArrayInfo> = {}): ArrayInfo {
  return {
    name,
    metric: name,
    long_name: name.replaceAll("_", " "),
    units: "1",
    dims: ["layer"],
    dtype: "float",
    interval: false,
    kind: "curve",
    other: false,
    ...over,
  };
}

/** Two ratios, a norm with its maximum, a matrix and a head grid, of 3 layers and 2 heads. */
export function makeMetricsMeta(over: Partial<MetricsMeta> = {}): MetricsMeta {
  const states = {
    size: 4,
    labels: ["embed", "0_post", "1_post", "2_post"],
    numbers: [-1, 0, 1, 2],
    long_name: "state",
  };
  const axis = (size: number, long_name: string) => {
    const numbers = Array.from({ length: size }, (_, i) => i);
    return { size, labels: numbers.map(String), numbers, long_name };
  };
  const norm = { units: "activation", dims: ["point"] };
  return {
    ...makeMeta(),
    n_layers: 3,
    metrics: ["attn_ratio", "mlp_ratio", "residual_norm", "cka", "induction"],
    described: Object.fromEntries(CATALOGUE.map((one) => [one.name, one])),
    n_texts: 2,
    n_tokens: 12,
    n_counted: 10,
    skip_first: true,
    axes: {
      layer: axis(3, "layer"),
      head: axis(2, "head"),
      point: states,
      point_other: states,
      "other.layer": axis(2, "layer"),
    },
    arrays: [
      makeArray("attn_ratio", { interval: true }),
      makeArray("mlp_ratio"),
      makeArray("residual_norm", norm),
      makeArray("residual_norm_max", { metric: "residual_norm", ...norm }),
      makeArray("cka", { dims: ["point", "point_other"], kind: "matrix" }),
      makeArray("cka_cluster", {
        metric: "cka",
        dims: ["point"],
        kind: "clusters",
        dtype: "int",
      }),
      makeArray("induction", { dims: ["layer", "head"], kind: "heads" }),
    ],
    clusters: {
      cka: [
        [0, 1],
        [2, 3],
      ],
    },
    other: null,
    ...over,
  };
}

type Block = [name: string, dims: string[], start: number[], shape: number[], values: number[]];

/** A frame of float arrays. */
export function makeBlocks(seq: number, blocks: readonly Block[], last = false) {
  const arrays: ArrayHeader[] = blocks.map(([name, dims, start, shape]) => {
    return { name, dims, dtype: "float32", start, shape };
  });
  const header: FrameHeader = { run: 1, seq, last, arrays, vocab: {} };
  const buffers = blocks.map((block) => new DataView(Float32Array.from(block[4]).buffer));
  return { header, buffers };
}

/** Everything of `makeMetricsMeta`, whole. */
export function makeMetrics() {
  const square = Array.from({ length: 16 }, (_, i) => (i % 5 === 0 ? 1 : 0.5));
  return makeBlocks(
    1,
    [
      ["attn_ratio", ["layer"], [0], [3], [0.1, 0.2, 0.3]],
      ["attn_ratio_low", ["layer"], [0], [3], [0.05, 0.15, 0.25]],
      ["attn_ratio_high", ["layer"], [0], [3], [0.15, 0.25, 0.35]],
      ["mlp_ratio", ["layer"], [0], [3], [1, 2, 3]],
      ["residual_norm", ["point"], [0], [4], [10, 20, 30, 40]],
      ["residual_norm_max", ["point"], [0], [4], [100, 200, 300, 400]],
      ["cka", ["point", "point_other"], [0, 0], [4, 4], square],
      ["induction", ["layer", "head"], [0, 0], [3, 2], [0, 0.1, 0.2, 0.3, 0.4, 0.9]],
    ],
    true,
  );
}

function axis(labels: readonly string[], over: Partial<AxisInfo> = {}): AxisInfo {
  return { size: labels.length, labels: [...labels], numbers: null, long_name: "", ...over };
}

const count = (size: number) => Array.from({ length: size }, (_, i) => i);

/** Effects by layer and token, the same at two doses, a curve with its control, a list, a number. */
export function makeAnswerMeta(over: Partial<AnswerMeta> = {}): AnswerMeta {
  const grid = { down: "layer", across: "position", third: "", kind: "grid" as const };
  const layered = { numbers: count(3), long_name: "layer", role: "layer" as const };
  const along = { down: "", across: "step", third: "", dims: ["step"], kind: "profile" as const };
  const tokens = ["<s>", " Paris", ""].map((text, id) => ({ id, text, cont: text === "" }));
  return {
    ...makeMeta(),
    n_layers: 3,
    analysis: "some_sweep",
    question: "Where does the answer come from?",
    lead: "Each cell is an effect in nats.",
    terms: { effect: "What a change brings.", nats: "Unit of information." },
    described: {},
    clusters: {},
    other: null,
    tokens: { text: tokens },
    axes: {
      layer: axis(["0", "1", "2"], layered),
      position: axis(["<s>", " Paris", ""], {
        numbers: count(3),
        long_name: "position",
        role: "position",
        tokens: "text",
      }),
      dose: axis(["-1", "0.5"], { long_name: "dose" }),
      step: axis(["0", "1", "2", "3"], { numbers: count(4), long_name: "step", role: "" }),
      part: axis(["all", "none"], { long_name: "part", role: "" }),
    },
    arrays: [
      // The frames may have another order of axes than the picture.
      makeArray("effect", { dims: ["position", "layer"], units: "nats", ...grid, missing: null }),
      makeArray("answer", { dims: ["position", "layer"], dtype: "token", ...grid, missing: -1 }),
      makeArray("dosed", { ...grid, dims: ["layer", "position", "dose"], third: "dose" }),
      makeArray("found", { ...along, low: "found_lowest", high: "found_highest", interval: true }),
      makeArray("random_found", { ...along, dtype: "int", missing: -1 }),
      makeArray("usage", { ...along, across: "part", dims: ["part"] }),
      makeArray("base", { dims: [], kind: "scalar" }),
    ],
    scales: { effect: { kind: "diverging", centre: 0, limit: null, unit: "nats" } },
    opens: "cell",
    finds: "",
    doses: [
      { option: "dose", values: [-1, 0.5], dim: "dose", label: "dose", now: null },
      { option: "window", values: [1, 3, 5], dim: "", label: "window", now: null },
    ],
    ...over,
  };
}

/** Everything of `makeAnswerMeta`, whole. */
export function makeAnswer() {
  const effects = [-0.3, 0.1, 0.2, 0.3, 0.9, Number.NaN, 0.5, 0.6, 0.7];
  const made = makeBlocks(
    1,
    [
      ["effect", ["position", "layer"], [0, 0], [3, 3], effects],
      ["dosed", ["layer", "position", "dose"], [0, 0, 0], [3, 3, 2], count(18)],
      ["found", ["step"], [0], [4], [0.1, 0.2, 0.4, 0.8]],
      ["found_lowest", ["step"], [0], [4], [0, 0.1, 0.3, 0.7]],
      ["found_highest", ["step"], [0], [4], [0.2, 0.3, 0.5, 0.9]],
      ["usage", ["part"], [0], [2], [1, 0.25]],
      ["base", [], [], [], [2.5]],
    ],
    true,
  );
  const whole: [string, string[], number[]][] = [
    ["answer", ["position", "layer"], [7, 7, 8, 8, 8, -1, 7, 7, 7]],
    ["random_found", ["step"], [-1, 1, 2, 3]],
  ];
  for (const [name, dims, values] of whole) {
    const shape = dims.length === 1 ? [4] : [3, 3];
    made.header.arrays.push({ name, dims, dtype: "int32", start: dims.map(() => 0), shape });
    made.buffers.push(new DataView(Int32Array.from(values).buffer));
  }
  made.header.vocab = { 7: " Rome", 8: " Paris" };
  return made;
}
