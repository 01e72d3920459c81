import type { HeatSource } from "../../marks/heattypes";
import { compact } from "../../marks/numbers";
import type { Cell } from "../../marks/windowing";
import { type ColorScale, rangeScale } from "../../theme/scale";
import type { ArrayInfo } from "../../wire/metrics";
import type { MetricsData } from "./data";
import { unitName } from "./data";
import type { MetricsState } from "./state";

/** Whether an array is drawn as a grid: a matrix, heads, or one entry at a time of a third axis. */
export function isGrid({ kind, dims, dtype }: ArrayInfo): boolean {
  if (kind === "matrix" || kind === "heads") return true;
  return dtype === "float" && dims.length === 3 && /^(other\.)?(layer|point)$/.test(dims[0] ?? "");
}

/** A matrix or a head grid, asked by entries of its axes: rows are the first one, upwards. */
export class GridData {
  readonly down: string;
  readonly across: string;
  /** A third axis, of which one entry is shown; null where there is none. */
  readonly third: string | null;

  constructor(
    readonly data: MetricsData,
    readonly array: ArrayInfo,
    private readonly entry = 0,
  ) {
    this.third = array.dims[2] ?? null;
    this.down = array.dims[0] ?? "";
    this.across = array.dims[1] ?? "";
  }

  get rows(): number {
    return this.data.size(this.down);
  }

  get columns(): number {
    return this.data.size(this.across);
  }

  get square(): boolean {
    return this.across === `${this.down}_other`;
  }

  get byHead(): boolean {
    return this.across.replace(/^other\./, "") === "head";
  }

  /** Where the number of a cell is found. */
  place(point: number, position: number): number[] {
    return this.third === null ? [point, position] : [point, position, this.entry];
  }

  value(point: number, position: number): number {
    return this.data.at(this.array.name, ...this.place(point, position));
  }

  /** Where a layer, and in a head grid the head, is found; -1 where it is not. */
  cellOf(layer: number, head: number, column: number): Cell | null {
    const point = this.data.index(this.down, layer);
    if (point < 0 || layer < 0) return null;
    const position = this.byHead ? this.data.index(this.across, head) : column;
    return { point, position: position < 0 && this.square ? point : position };
  }

  rowName(point: number): string {
    return stateName(this.data.label(this.down, point));
  }

  columnName(position: number): string {
    const name = this.data.label(this.across, position);
    return this.square ? stateName(name) : name;
  }

  cellName(point: number, position: number): string {
    const { rowName, columnName } = {
      rowName: this.rowName(point),
      columnName: this.columnName(position),
    };
    if (!this.square) return `layer ${rowName}, ${this.acrossName} ${columnName}`;
    return `${this.down.startsWith("point") ? "after " : "layers "}${rowName} and ${columnName}`;
  }

  source(): HeatSource {
    return {
      arrived: (point, position) => !Number.isNaN(this.value(point, position)),
      value: (point, position) => this.value(point, position),
      text: this.#writer(),
      quiet: () => false,
      head: (position) => ({
        upper: this.columnName(position),
        lower: "",
        differs: false,
        note: "",
      }),
      rowLabel: (point) => this.rowName(point),
      first: this.data.number(this.across, 0),
      lines: null,
      across: this.square ? "layer" : this.acrossName,
      down: "layer",
    };
  }

  get acrossName(): string {
    return this.data.meta.axes[this.across]?.long_name ?? this.across;
  }

  /** All cells with as many digits, so that the largest has two or three that count. */
  #writer(): (value: number) => string {
    const { low, high } = this.data.extent(this.array.name) ?? { low: 0, high: 1 };
    const size = Math.ceil(Math.log10(Math.max(-low, high, 1e-9)));
    if (size > 3 || size < -2) return (value) => compact(value, 2);
    return (value) => value.toFixed(Math.max(0, 2 - size)).replace("-", "−");
  }

  scale(state: MetricsState): ColorScale {
    const { name, units } = this.array;
    const { low, high } = this.data.extent(name) ?? { low: 0, high: 1 };
    const label = name.replaceAll("_", " ");
    return rangeScale(state.palette.value, low, high, label, unitName(units));
  }
}

/** A state is named after the block that made it. */
function stateName(label: string): string {
  return label.replace(/ post$/, "");
}
