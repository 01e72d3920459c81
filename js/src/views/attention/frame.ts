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
    this.names = {
      query: (position) => this.#drawn(this.queries[position], position, "tokens"),
      key: (position) => this.#drawn(this.keys[position], position, "key_tokens"),
    };
  }

  /** A token as it is drawn; in a difference both texts' where they differ. */
  #drawn(token: TokenInfo | undefined, position: number, side: "tokens" | "key_tokens"): string {
    const text = token?.cont ? "⋯" : (token?.text ?? "");
    if (this.shows !== "difference") return text;
    const other = this.state.meta.peek()?.other?.[side][position]?.text ?? text;
    return other === text ? text : `${text} ≠ ${other}`;
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
    const own = alone ? this.room(room) : 0.42 * room;
    return clamp(Math.floor(own), LINES_LEAST, LINES_MOST);
  }

  /** What is left for the matrix. */
  room(room: number): number {
    const both = this.state.session.traits.mode.value === "both";
    if (both) return room - this.linesWidth(room) - BETWEEN - 20;
    // Two stand side by side, where they are not two each.
    return this.state.sides().length > 1 ? Math.floor((room - BETWEEN - 20) / 2) : room;
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
