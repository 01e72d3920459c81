import { computed, type ReadonlySignal } from "@preact/signals";
import type { PairNames } from "../../marks/matrix";
import { Images, type Square } from "../../marks/square";
import { tokenName } from "../../marks/text";
import { clamp } from "../../marks/windowing";
import { parseHex } from "../../theme/colors";
import type { TokenInfo } from "../../wire/types";
import type { Anchor } from "../common/canvasgrid";
import type { AttentionState, Shows, Spot } from "./state";

/** Between matrix and lines. */
const BETWEEN = 12;
const LINES_LEAST = 250;
const LINES_MOST = 420;

/** One square and everything that its lines and its matrix need to know of it. */
export class Frame {
  readonly square: ReadonlySignal<Square | null>;
  readonly names: PairNames;
  readonly #images = new Images();
  readonly #tokens: ReadonlySignal<{ queries: readonly TokenInfo[]; keys: readonly TokenInfo[] }>;

  constructor(
    readonly state: AttentionState,
    readonly shows: Shows,
  ) {
    this.square = state.squares[shows];
    this.#tokens = computed(() => {
      const data = state.data.value;
      const other = shows === "second";
      return { queries: data?.queries(other) ?? [], keys: data?.keys(other) ?? [] };
    });
    const name = (token: TokenInfo | undefined) => (token?.cont ? "⋯" : (token?.text ?? ""));
    this.names = {
      query: (position) => name(this.queries[position]),
      key: (position) => name(this.keys[position]),
    };
  }

  get queries(): readonly TokenInfo[] {
    return this.#tokens.value.queries;
  }

  get keys(): readonly TokenInfo[] {
    return this.#tokens.value.keys;
  }

  /** Where the selected pair is; -1 where none is selected, or a shorter text has none. */
  cursor(): Spot {
    const { query, key } = this.state.session.traits;
    return {
      query: query.value < this.queries.length ? query.value : -1,
      key: key.value < this.keys.length ? key.value : -1,
    };
  }

  image(): HTMLCanvasElement | null {
    const square = this.square.peek();
    if (!square) return null;
    const palette = this.state.palette.peek();
    return this.#images.of(square, this.state.scale(this.shows), parseHex(palette.sunken));
  }

  /** The number that a line is drawn in full for. */
  most(): number {
    const square = this.square.peek();
    return square ? Math.max(-square.low, square.high) : 0;
  }

  /** Point at a token or a pair, here and in the other parts; the numbers stand beside `at`. */
  point(spot: Spot | null, at: Anchor | null): void {
    const { hover, tip } = this.state;
    const old = hover.peek();
    if (spot?.query === old?.query && spot?.key === old?.key) return;
    hover.value = spot;
    tip.value = spot && at ? { at, shows: this.shows, spot } : null;
  }

  /** What lines take of the room for both. */
  linesWidth(room: number): number {
    const alone = this.state.session.traits.mode.value === "lines";
    return clamp(Math.floor(alone ? room : 0.42 * room), LINES_LEAST, LINES_MOST);
  }

  /** What is left for the matrix. */
  room(room: number): number {
    const both = this.state.session.traits.mode.value === "both";
    return both ? room - this.linesWidth(room) - BETWEEN - 20 : room;
  }

  /** What is read out of a token. */
  queryName(position: number): string {
    return `${position} ${tokenName(this.queries[position])}`;
  }

  keyName(position: number): string {
    return `${position} ${tokenName(this.keys[position])}`;
  }

  value(query: number, key: number): number {
    const square = this.square.value;
    if (!square || query >= square.queries || key >= square.keys) return Number.NaN;
    return square.values[query * square.keys + key] ?? Number.NaN;
  }
}
