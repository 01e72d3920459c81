import type { HeatHead, HeatSource } from "../../marks/heattypes";
import { compact, written } from "../../marks/numbers";
import { plain } from "../../marks/text";
import type { ArrayInfo } from "../../wire/arrays";
import type { ArraysData } from "./data";

/** What of an array with more than two axes is drawn, and what besides. */
export interface Cut {
  /** The axis of which one entry is shown; absent: the last. */
  third?: string;
  /** The entry; of several such axes the number of their combination, the last running fastest. */
  entry?: number;
  /** Whether the means of rows and columns stand at their ends. */
  means?: boolean;
}

const MEAN = "mean";

/** Two axes of an array as a grid, asked by their entries: layers go upwards, whatever the order. */
export class GridData {
  readonly down: string;
  readonly across: string;
  /** Axes of which one entry is shown. */
  readonly rest: readonly string[];
  readonly means: boolean;
  readonly #place: readonly number[];
  readonly #sums = new Map<string, number>();

  constructor(
    readonly data: ArraysData,
    readonly array: ArrayInfo,
    { third, entry = 0, means = false }: Cut = {},
  ) {
    const { dims } = array;
    const shown = third && third !== array.third ? dims.filter((dim) => dim !== third) : [];
    if (array.down && array.across && shown.length === 0) {
      [this.down, this.across] = [array.down, array.across];
    } else {
      const free = shown.length > 0 ? shown : dims;
      this.down = free.find((dim) => data.isDepth(dim)) ?? free[0] ?? "";
      this.across = free.find((dim) => dim !== this.down) ?? "";
    }
    this.rest = dims.filter((dim) => dim !== this.down && dim !== this.across);
    this.means = means;
    this.#place = unravel(
      entry,
      this.rest.map((dim) => data.size(dim)),
    );
  }

  /** Rows and columns as they are drawn; the entries of the axes are `size`. */
  get rows(): number {
    return this.size.rows && this.size.rows + Number(this.means);
  }

  get columns(): number {
    return this.size.columns && this.size.columns + Number(this.means);
  }

  get size(): { rows: number; columns: number } {
    return { rows: this.data.size(this.down), columns: this.data.size(this.across) };
  }

  get square(): boolean {
    return this.across === `${this.down}_other`;
  }

  /** Whether columns are named by words or tokens, which need more room than numbers. */
  get worded(): boolean {
    const { labels = [] } = this.data.meta.axes[this.across] ?? {};
    return !this.square && labels.some((label) => label.length > 4);
  }

  /** The layer of a row; null where rows are none, and for their means. */
  layerOf(point: number): number | null {
    const { data, down, size } = this;
    return data.isDepth(down) && point < size.rows ? data.number(down, point) : null;
  }

  /** The row of a layer; -1 for none. */
  rowOf(layer: number): number {
    return this.data.isDepth(this.down) ? this.data.index(this.down, layer) : -1;
  }

  /** Where the number of a cell is found. */
  place(point: number, position: number): number[] {
    return this.array.dims.map((dim) => {
      if (dim === this.down) return point;
      return dim === this.across ? position : (this.#place[this.rest.indexOf(dim)] ?? 0);
    });
  }

  value(point: number, position: number): number {
    const { rows, columns } = this.size;
    if (point < rows && position < columns) return this.cell(point, position);
    const key = `${point} ${position}`;
    const known = this.#sums.get(key);
    if (known !== undefined) return known;
    const mean = this.#mean(
      point < rows ? [point] : all(rows),
      position < columns ? [position] : all(columns),
    );
    this.#sums.set(key, mean);
    return mean;
  }

  cell(point: number, position: number): number {
    return this.data.at(this.array.name, ...this.place(point, position));
  }

  #mean(rows: readonly number[], columns: readonly number[]): number {
    let [sum, count] = [0, 0];
    for (const row of rows) {
      for (const column of columns) {
        const value = this.cell(row, column);
        if (Number.isNaN(value)) continue;
        sum += value;
        count++;
      }
    }
    return count > 0 ? sum / count : Number.NaN;
  }

  /** The cell farthest from `centre`; null where none is off it. */
  strongest(centre: number): { point: number; position: number } | null {
    let [most, found] = [0, null as { point: number; position: number } | null];
    const { rows, columns } = this.size;
    for (let point = 0; point < rows; point++) {
      for (let position = 0; position < columns; position++) {
        const far = Math.abs(this.cell(point, position) - centre);
        if (far > most) [most, found] = [far, { point, position }];
      }
    }
    return found;
  }

  rowName(point: number): string {
    return point < this.size.rows ? this.#name(this.down, point) : MEAN;
  }

  columnName(position: number): string {
    return position < this.size.columns ? this.#name(this.across, position) : MEAN;
  }

  #name(dim: string, index: number): string {
    const label = this.data.label(dim, index);
    if (this.data.meta.axes[dim]?.tokens) return label === "" ? "⋯" : plain(label);
    return this.data.role(dim) === "layer" ? stateName(label) : label;
  }

  cellName(point: number, position: number): string {
    const [row, column] = [this.rowName(point), this.columnName(position)];
    if (this.square) {
      return `${this.down.startsWith("point") ? "after " : "layers "}${row} and ${column}`;
    }
    const token = this.data.meta.axes[this.across]?.tokens;
    const at =
      token && position < this.size.columns ? ` ${this.data.number(this.across, position)}` : "";
    return `${this.downName} ${row}, ${this.data.axisName(this.across)}${at} ${column}`;
  }

  get downName(): string {
    const name = this.data.axisName(this.down);
    return name === "state" || this.down === "point" ? "layer" : name;
  }

  source(): HeatSource {
    const write = this.#writer();
    return {
      arrived: (point, position) => !Number.isNaN(this.value(point, position)),
      value: (point, position) => this.value(point, position),
      text: write,
      quiet: () => false,
      head: (position) => this.#head(position),
      rowLabel: (point) => this.rowName(point),
      first: this.data.number(this.across, 0),
      lines: null,
      across: this.square ? "layer" : this.data.axisName(this.across),
      down: this.downName,
    };
  }

  #head(position: number): HeatHead {
    const tokens = this.data.meta.axes[this.across]?.tokens;
    if (!tokens || position >= this.size.columns) {
      return { upper: this.columnName(position), lower: "", differs: false, note: "" };
    }
    // The painter marks the spaces of a token itself, fainter than its letters.
    const upper = this.data.label(this.across, position) || "⋯";
    const note = String(this.data.number(this.across, position));
    return { upper, lower: "", differs: false, note };
  }

  /** All cells with as many digits, so that the largest has two or three that count. */
  #writer(): (value: number) => string {
    if (this.array.dtype !== "float") return (value) => compact(value);
    const { low, high } = this.data.extent(this.array.name) ?? { low: 0, high: 1 };
    const size = Math.ceil(Math.log10(Math.max(-low, high, 1e-9)));
    if (size > 3 || size < -2) return (value) => compact(value, 2);
    return (value) => written(value, Math.max(size < 3 ? 1 : 0, 2 - size));
  }
}

function all(count: number): number[] {
  return Array.from({ length: count }, (_, i) => i);
}

/** The entries of several axes that a number of their combinations stands for. */
function unravel(entry: number, sizes: readonly number[]): number[] {
  const out: number[] = [];
  let rest = entry;
  for (const size of [...sizes].reverse()) {
    out.unshift(size > 0 ? rest % size : 0);
    rest = size > 0 ? Math.floor(rest / size) : 0;
  }
  return out;
}

/** A state is named after the block that made it. */
function stateName(label: string): string {
  return label.replace(/ post$/, "");
}
