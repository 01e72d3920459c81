/**
 * What travels between the kernel and the page, as far as all views have it in common. The names are
 * those of the traits and messages on the Python side (layerlens/views); the two are kept in step by
 * the tests of both. What one view adds is in a file of its own beside this one.
 */

export type ThemeChoice = "auto" | "light" | "dark";

export interface TokenName {
  id: number;
  text: string;
}

export interface TokenInfo extends TokenName {
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

/** What a picture says about itself, whatever it shows. */
export interface CommonMeta {
  run: number;
  model: string;
  model_type: string;
  dtype: string;
  n_layers: number;
  notes: string[];
  source: string;
  question: string;
  cost: string;
  code: string;
  /** What must run before the code: the import, and the loading of the models. */
  setup: string;
  checks: Check[];
  /** What is seen, and how it is read, in one line. */
  lead?: string;
  /** What the words of art in the view mean. */
  terms?: Record<string, string>;
  /** The question that the picture answers, as the fields showed it. */
  asked?: { inputs: Record<string, string | string[]>; options: Record<string, unknown> };
}

/** "waiting": a run that takes long has not begun; its cost is the message. */
export type RunState = "idle" | "waiting" | "queued" | "running" | "done" | "cancelled" | "error";

export interface Status {
  state: RunState;
  run: number;
  done: number;
  total: number;
  what: string;
  message: string;
  seconds: number;
  /** What `done` and `total` count; steps where it is not said. */
  unit?: string;
}

/** The traits that every view has. */
export interface CommonTraits {
  view: string;
  options: object;
  title: string;
  layer: number;
  position: number;
  theme: ThemeChoice;
  cell_width: number;
  status: Status;
  meta: object;
  snapshot: DataView | Uint8Array | null;
  live: boolean;
  /** Whether prompt and layer are another view's to change, the lens's where there is one. */
  linked: boolean;
  /** The class of the picture that stays in the notebook's file. */
  kept: string;
}

export const COMMON: CommonTraits = {
  view: "",
  options: {},
  title: "",
  layer: -1,
  position: -1,
  theme: "auto",
  cell_width: 72,
  status: { state: "idle", run: 0, done: 0, total: 0, what: "", message: "", seconds: 0 },
  meta: {},
  snapshot: null,
  live: true,
  kept: "",
  linked: false,
};

/** What the wire needs to know of one view. */
export interface WireSpec<T extends CommonTraits, M extends CommonMeta> {
  /** Every synced trait with the value that stands for a missing one. */
  readonly defaults: T;
  /** Whether a meta is whole, so that a picture can be begun with it. */
  isMeta(meta: object): meta is M;
  /** The length of each axis; one that is not named grows with the first frame. */
  axes(meta: M): Readonly<Record<string, number>>;
  /** Tokens whose text comes with the meta. */
  names(meta: M): readonly TokenName[];
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
