/**
 * What travels between the kernel and the page. The names are those of the traits and messages on
 * the Python side (layerlens/views); the two are kept in step by the tests of both.
 */

export const COLOR_MODES = ["probability", "entropy", "rank", "kl", "tracked"] as const;
export type ColorMode = (typeof COLOR_MODES)[number];

export type ThemeChoice = "auto" | "light" | "dark";

export interface TokenInfo {
  id: number;
  text: string;
  /** True: only continues the character of the token before it (split UTF-8); `text` is then "". */
  cont: boolean;
}

export interface Check {
  name: string;
  error: number;
  limit: number;
  ok: boolean;
  what: string;
}

export interface Meta {
  run: number;
  model: string;
  model_type: string;
  dtype: string;
  n_layers: number;
  d_vocab: number;
  notes: string[];
  tokens: TokenInfo[];
  points: string[];
  layers: number[];
  k: number;
  tracked: { id: number; text: string }[];
  source: string;
  question: string;
  cost: string;
  code: string;
  checks: Check[];
}

export type RunState = "idle" | "queued" | "running" | "done" | "cancelled" | "error";

export interface Status {
  state: RunState;
  run: number;
  done: number;
  total: number;
  what: string;
  message: string;
  seconds: number;
}

export interface Pin {
  position: number;
  id: number;
}

export interface LensOptions {
  top_k?: number;
  points?: unknown;
  tracked?: number[];
}

/** Every trait the view reads or writes. */
export interface LensTraits {
  view: string;
  text: string;
  options: LensOptions;
  title: string;
  row: number;
  position: number;
  layer: number;
  pins: Pin[];
  color: ColorMode;
  tracked: number;
  transposed: boolean;
  theme: ThemeChoice;
  cell_width: number;
  status: Status;
  meta: Partial<Meta>;
  snapshot: DataView | Uint8Array | null;
  live: boolean;
}

export type WireDtype = "uint8" | "uint16" | "uint32" | "int32" | "float16" | "float32";

export interface ArrayHeader {
  name: string;
  dims: string[];
  dtype: WireDtype;
  start: number[];
  shape: number[];
}

export interface FrameHeader {
  run: number;
  seq: number;
  last: boolean;
  arrays: ArrayHeader[];
  vocab: Record<string, string>;
}

/** The part of an anywidget model that we use; the host of a frozen page implements the same. */
export interface AfmModel {
  get(name: string): unknown;
  set(name: string, value: unknown): void;
  save_changes(): void;
  on(event: string, callback: (...args: never[]) => void): void;
  off(event?: string | null, callback?: ((...args: never[]) => void) | null): void;
  send(content: unknown, callbacks?: unknown, buffers?: ArrayBuffer[] | ArrayBufferView[]): void;
}

export function isMeta(meta: Partial<Meta> | null | undefined): meta is Meta {
  return Boolean(meta && typeof meta.run === "number" && meta.points && meta.tokens);
}
