import { compact, type Ends, endsOf } from "../../marks/numbers";
import { tokenName } from "../../marks/text";
import type { ArrayInfo } from "../../wire/arrays";
import type { RunStore } from "../../wire/store";
import type { StripMeta } from "../../wire/strip";
import type { TokenInfo } from "../../wire/types";
import { ArraysData, unitName } from "../arrays/data";
import { titleOf } from "../arrays/grouping";

/** One run's strips: the tokens, and the number of each in each row at each depth. */
export class StripData {
  readonly meta: StripMeta;
  readonly arrays: ArraysData<StripMeta>;
  /** The axes of the slider and of the tokens. */
  readonly steps: string;
  readonly items: string;
  readonly rows: readonly ArrayInfo[];
  readonly beside: readonly ArrayInfo[];

  constructor(store: RunStore<StripMeta>) {
    this.meta = store.meta;
    this.arrays = new ArraysData(store);
    const { steps, items, rows, beside } = store.meta.strip;
    [this.steps, this.items] = [steps, items];
    const named = (name: string) => this.arrays.array(name) ?? [];
    [this.rows, this.beside] = [rows.flatMap(named), beside.flatMap(named)];
  }

  /** How many tokens there are. */
  get size(): number {
    return this.arrays.size(this.items);
  }

  /** What the tokens of a row are: the second text's, of a difference both where they differ. */
  tokens(row: ArrayInfo, item: number): TokenInfo[] {
    const both = this.#both(item);
    if (row.other) return both.slice(-1);
    return isChange(row) ? both : both.slice(0, 1);
  }

  /** The tokens at a place: one where both texts have the same. */
  #both(item: number): TokenInfo[] {
    const [mine, theirs] = [this.token(item), this.meta.theirs[item]];
    return theirs && theirs.id !== mine.id ? [mine, theirs] : [mine];
  }

  /** What a token is, as it is drawn; without a text its label. */
  token(item: number): TokenInfo {
    const own = this.meta.tokens[this.meta.axes[this.items]?.tokens ?? ""];
    const text = this.arrays.label(this.items, item);
    return own?.[this.arrays.number(this.items, item)] ?? { id: -1, text, cont: false };
  }

  /** The token at a position; -1 for none. */
  itemAt(position: number): number {
    return position < 0 ? -1 : this.arrays.index(this.items, position);
  }

  /** A cell of a row, in the order of its axes. */
  index({ dims }: ArrayInfo, step: number, item: number): number[] {
    return dims[0] === this.steps ? [step, item] : [item, step];
  }

  at(row: ArrayInfo, step: number, item: number): number {
    return this.arrays.at(row.name, ...this.index(row, step, item));
  }

  /** The numbers of a row at a depth. */
  numbers(row: ArrayInfo, step: number): number[] {
    return Array.from({ length: this.size }, (_, item) => this.at(row, step, item));
  }

  /** The depth that is seen first. */
  first(): number {
    const { start } = this.meta.strip;
    return start < 0 ? this.#newest() : start;
  }

  /** The last depth that has come; 0 before any has. */
  #newest(): number {
    const come = (step: number) => this.rows.some((row) => !Number.isNaN(this.at(row, step, 0)));
    for (let step = this.arrays.size(this.steps) - 1; step > 0; step--) if (come(step)) return step;
    return 0;
  }

  /** What stands beside the rows: of the text, of a second one, and their differences. */
  sides(): ArrayInfo[][] {
    const side = (array: ArrayInfo) => (array.other ? 1 : isChange(array) ? 2 : 0);
    return [0, 1, 2]
      .map((which) => this.beside.filter((array) => side(array) === which))
      .filter(({ length }) => length > 0);
  }

  /** The rows by their units, in order. */
  byUnit(): ArrayInfo[][] {
    const units = [...new Set(this.rows.map(({ units }) => units))];
    return units.map((unit) => this.rows.filter(({ units }) => units === unit));
  }

  /** The ends of the numbers of some rows, at one depth or at all; null before any has come. */
  extent(rows: readonly ArrayInfo[], step: number | null): Ends | null {
    const found = rows.flatMap((row) => {
      const own = step === null ? this.arrays.extent(row.name) : endsOf(this.numbers(row, step));
      return own ? [own.low, own.high] : [];
    });
    return endsOf(found);
  }

  /** "Paris, position 3"; of a difference of two texts "Paris → Rome, position 3". */
  name(tokens: readonly TokenInfo[], item: number): string {
    const words = tokens.map((token) => tokenName(token)).join(" → ");
    return `${words}, position ${this.arrays.number(this.items, item)}`;
  }

  /** A number with its unit; a dash where there is none yet. */
  said({ units }: ArrayInfo, value: number): string {
    const unit = unitName(units);
    return Number.isNaN(value) || !unit ? compact(value, 3) : `${compact(value, 3)} ${unit}`;
  }

  /** A token in one sentence: its number in every row. */
  sentence(step: number, item: number): string {
    const numbers = this.rows.map(
      (row) => `${titleOf(row, this.meta)} ${this.said(row, this.at(row, step, item))}`,
    );
    return `${this.name(this.#both(item), item)}: ${numbers.join("; ")}`;
  }
}

/** Whether an array holds a second answer's numbers less the first's. */
function isChange({ name }: ArrayInfo): boolean {
  return name.startsWith("change_");
}
