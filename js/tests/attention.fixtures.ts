import type { AttentionMeta, Part } from "../src/wire/attention";
import type { SliceHeader } from "../src/wire/slice";
import { makeMeta } from "./fixtures";

const TEXT = ["<s>", " a", " cat", " a"].map((text, id) => ({ id, text, cont: false }));

/** Four tokens in two layers of four heads, of which two share keys. */
export function makePart(over: Partial<Part> = {}): Part {
  return {
    tokens: TEXT,
    key_tokens: TEXT,
    layers: [0, 1],
    n_heads: 4,
    kv_groups: [0, 0, 1, 1],
    special: [true, false, false, false],
    ...over,
  };
}

export function makeAttentionMeta(over: Partial<AttentionMeta> = {}): AttentionMeta {
  const { run, model, model_type, dtype, notes, source, question, cost, setup, checks } =
    makeMeta();
  return {
    ...{ run, model, model_type, dtype, notes, source, question, cost, setup, checks },
    n_layers: 2,
    code: "ll.attention(model, text)",
    ...makePart(),
    parts: ["self"],
    by_part: {},
    weightings: ["pattern"],
    weightings_possible: ["pattern", "value"],
    roles: [{ layer: 1, head: 2, role: "previous_token", score: 0.93 }],
    role_rule: "More than half.",
    head_names: [],
    other: null,
    lead: "Each row is a token that looks.",
    terms: { previous_token: "Looks at the token before." },
    ...over,
  };
}

/**
 * A causal slice of four tokens: head h gives 200 to the token before and what is left to the first
 * one, in units of 255 of a largest weight of 0.5 * (h + 1).
 */
export function makeSlice(heads = 4, queries = 4): { header: SliceHeader; bytes: Uint8Array } {
  const bytes: number[] = [];
  for (let head = 0; head < heads; head++) {
    for (let query = 0; query < queries; query++) {
      for (let key = 0; key <= query; key++) {
        bytes.push(key === query - 1 ? 200 : key === 0 ? 255 : key === query ? head : 0);
      }
    }
  }
  const max = Array.from({ length: heads }, (_, head) => 0.5 * (head + 1));
  return {
    header: { max, shape: [heads, queries, queries], causal: true },
    bytes: Uint8Array.from(bytes),
  };
}

export function packedSlice(slice = makeSlice()) {
  return { ...slice.header, data: btoa(String.fromCharCode(...slice.bytes)) };
}
