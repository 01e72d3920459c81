import type { HeatHead, HeatSource } from "../../marks/heattypes";
import { type Ends, endsOf, written } from "../../marks/numbers";
import { plain } from "../../marks/text";
import type { Cell } from "../../marks/windowing";
import type { PatchMeta } from "../../wire/patch";
import type { RunStore } from "../../wire/store";
import type { TokenInfo } from "../../wire/types";
import type { Row } from "./links";

/** Estimates beside the true values that have come. */
export interface Agreement {
  /** Cells that are estimates still. */
  left: number;
  /** Cells of which both are known. */
  compared: number;
  /** Pearson's; NaN of fewer than three cells, or where one side is constant. */
  pearson: number;
  /** The same among the tenth of these cells that change most; NaN of too few, or of equal ones. */
  strongest: number;
  /** These hardly differ, so that there is no order among them. */
  alike: boolean;
}

/** Among fewer cells a correlation says nothing. */
const FEWEST_STRONGEST = 8;

/** Deviation of the strongest cells, as a share of their mean, below which they hardly differ. */
const ALIKE = 0.1;

/** The pairs of (estimate, truth) with the tenth of the largest truths; none where these are few. */
function strongestPairs(pairs: readonly [number, number][]): [number, number][] {
  const count = Math.floor(pairs.length / 10);
  if (count < FEWEST_STRONGEST) return [];
  return [...pairs].sort((a, b) => Math.abs(b[1]) - Math.abs(a[1])).slice(0, count);
}

/** Whether the strongest cells change about equally much: a correlation is then one with noise. */
export function hardlyDiffer(pairs: readonly [number, number][]): boolean {
  const truths = strongestPairs(pairs).map((pair) => pair[1]);
  if (!truths.length) return false;
  const mean = truths.reduce((sum, one) => sum + one, 0) / truths.length;
  const square = truths.reduce((sum, one) => sum + (one - mean) ** 2, 0) / truths.length;
  return Math.sqrt(square) < ALIKE * Math.abs(mean);
}

/** The correlation among the strongest cells; NaN of too few, or where all are alike. */
export function amongStrongest(pairs: readonly [number, number][]): number {
  const best = strongestPairs(pairs);
  return best.length && !hardlyDiffer(pairs) ? correlation(best) : Number.NaN;
}

/** One sweep's numbers, asked by layer and column (a position, or a head). */
export class PatchData {
  readonly meta: PatchMeta;

  constructor(readonly store: RunStore<PatchMeta>) {
    this.meta = store.meta;
  }

  get layers(): number {
    return this.meta.rows.length;
  }

  get columns(): number {
    return this.meta.columns.length;
  }

  /** The layer, and the position or head, that a cell of the grid stands for. */
  placeOf({ point, position }: Cell): Cell {
    const { row_numbers, column_numbers } = this.meta;
    return {
      point: row_numbers?.[point] ?? point,
      position: column_numbers?.[position] ?? position,
    };
  }

  /** The cell of a layer, and a position or head; null when the grid has none. */
  cellOf({ point, position }: Cell): Cell | null {
    const { row_numbers, column_numbers } = this.meta;
    const cell = {
      point: row_numbers?.indexOf(point) ?? point,
      position: column_numbers?.indexOf(position) ?? position,
    };
    const inside =
      cell.point >= 0 &&
      cell.point < this.layers &&
      cell.position >= 0 &&
      cell.position < this.columns;
    return inside ? cell : null;
  }

  get byHead(): boolean {
    return this.meta.by === "head";
  }

  metric(layer: number, column: number): number {
    return this.#at("metric", layer, column);
  }

  /** 0 is the run that is patched, 1 the run that values come from; NaN also where they agree. */
  recovered(layer: number, column: number): number {
    return this.#at("recovered", layer, column);
  }

  arrived(layer: number, column: number): boolean {
    return !Number.isNaN(this.metric(layer, column));
  }

  /** The fraction as attribution patching estimates it; NaN where a cell needs no run. */
  estimate(layer: number, column: number): number {
    return this.#at("estimate", layer, column);
  }

  /** Whether the estimate stands in for a number that has not come. */
  guessed(layer: number, column: number): boolean {
    return !this.arrived(layer, column) && !Number.isNaN(this.estimate(layer, column));
  }

  /** What is in the picture: the true fraction, or its estimate until that has come. */
  drawn(layer: number, column: number): number {
    return this.guessed(layer, column)
      ? this.estimate(layer, column)
      : this.recovered(layer, column);
  }

  /** How many cells are estimates still, and how those that were run compare with theirs. */
  agreement(): Agreement {
    const pairs: [number, number][] = [];
    let left = 0;
    for (let layer = 0; layer < this.layers; layer++) {
      for (let column = 0; column < this.columns; column++) {
        const [guess, truth] = [this.estimate(layer, column), this.recovered(layer, column)];
        if (Number.isNaN(guess)) continue;
        if (Number.isNaN(truth)) left++;
        else pairs.push([guess, truth]);
      }
    }
    const [strongest, alike] = [amongStrongest(pairs), hardlyDiffer(pairs)];
    return { left, compared: pairs.length, pearson: correlation(pairs), strongest, alike };
  }

  #at(name: string, layer: number, column: number): number {
    return this.store.arrays.get(name)?.at(layer, column) ?? Number.NaN;
  }

  /** The cell whose patch changes most; null before any has come. */
  strongest(): Cell | null {
    let best: Cell | null = null;
    let most = 0;
    for (let point = 0; point < this.layers; point++) {
      for (let position = 0; position < this.columns; position++) {
        const size = Math.abs(this.recovered(point, position));
        if (!(size > most)) continue;
        most = size;
        best = { point, position };
      }
    }
    return best;
  }

  ends(): Ends | null {
    return endsOf(this.store.arrays.get("recovered")?.data ?? []);
  }

  tokens(row: Row): readonly TokenInfo[] {
    return row === "clean" ? this.meta.clean_tokens : this.meta.corrupt_tokens;
  }

  /** The position of the other prompt whose value goes to a position of the patched one. */
  partner(position: number): number | null {
    return this.meta.partners[position] ?? null;
  }

  /** The position of the patched prompt that a position of the other one belongs to. */
  fromPartner(position: number): number | null {
    const found = this.meta.partners.indexOf(position);
    return found < 0 ? null : found;
  }

  /** The tokens of both prompts at a position of the patched one; undefined where there is none. */
  pair(position: number): { clean: TokenInfo | undefined; corrupt: TokenInfo | undefined } {
    const { meta } = this;
    const there = this.partner(position);
    const own = this.tokens(meta.patched)[position];
    const other = there === null ? undefined : this.tokens(this.other)[there];
    return meta.patched === "clean"
      ? { clean: own, corrupt: other }
      : { clean: other, corrupt: own };
  }

  /** The prompt whose values are put into the other one. */
  get other(): Row {
    return this.meta.patched === "clean" ? "corrupt" : "clean";
  }

  differs(position: number): boolean {
    return this.meta.differing.includes(position);
  }

  /** "France|Italy" where the prompts differ, "capital" where they do not. */
  positionName(position: number): string {
    const { clean, corrupt } = this.pair(position);
    const names = [clean, corrupt].filter((token) => token !== undefined).map(tokenText);
    return (this.differs(position) ? names : names.slice(0, 1)).join("|") || String(position);
  }

  /** The token at a position of the prompt that values come from. */
  sourceName(position: number): string {
    const token = this.tokens(this.other)[position];
    return token ? tokenText(token) : "";
  }

  columnName(column: number): string {
    const { position } = this.placeOf({ point: 0, position: column });
    return this.byHead ? `head ${position}` : this.positionName(position);
  }

  /** What the canvas asks. */
  source(): HeatSource {
    return {
      arrived: (point, position) => this.arrived(point, position) || this.guessed(point, position),
      value: (point, position) => this.drawn(point, position),
      guessed: (point, position) => this.guessed(point, position),
      text: written,
      // Most patches change nothing.
      quiet: (value) => written(value) === "0.00",
      head: (position) => this.#head(position),
      rowLabel: (point) => this.meta.rows[point] ?? String(point),
      first: 0,
      lines: this.byHead ? null : ["clean", "corrupted"],
      across: this.byHead ? "head" : "token",
      down: "layer",
    };
  }

  #head(column: number): HeatHead {
    if (this.byHead) {
      const upper = this.meta.columns[column] ?? String(column);
      return { upper, lower: "", differs: false, note: "" };
    }
    const { position } = this.placeOf({ point: 0, position: column });
    const { clean, corrupt } = this.pair(position);
    return {
      upper: clean ? headText(clean) : "∅",
      lower: corrupt ? headText(corrupt) : "∅",
      differs: this.differs(position),
      note: String(position),
    };
  }
}

function headText(token: TokenInfo): string {
  return token.cont ? "⋯" : token.text;
}

function tokenText(token: TokenInfo): string {
  return plain(headText(token));
}

function correlation(pairs: readonly (readonly [number, number])[]): number {
  const n = pairs.length;
  const [a, b] = [0, 1].map((side) => pairs.reduce((sum, pair) => sum + (pair[side] ?? 0), 0) / n);
  let [ab, aa, bb] = [0, 0, 0];
  for (const [x, y] of pairs) {
    const [dx, dy] = [x - (a ?? 0), y - (b ?? 0)];
    ab += dx * dy;
    aa += dx * dx;
    bb += dy * dy;
  }
  return n < 3 ? Number.NaN : ab / Math.sqrt(aa * bb);
}
