import type { ColorScale } from "../theme/scale";
import type { Surface } from "./painter";
import type { Cell } from "./windowing";

/** A column's heading: one text, or two where two runs differ there. */
export interface HeatHead {
  upper: string;
  lower: string;
  differs: boolean;
  /** What stands under it, such as the position. */
  note: string;
}

/** What the grid asks of the data; asked for each cell drawn. */
export interface HeatSource {
  arrived(point: number, position: number): boolean;
  /** The number that colours a cell; NaN where there is none. */
  value(point: number, position: number): number;
  /** Whether that number is an estimate. */
  guessed?(point: number, position: number): boolean;
  /** How a number is written into its cell. */
  text(value: number): string;
  /** Whether it is as good as nothing, and must not drown the others. */
  quiet(value: number): boolean;
  head(position: number): HeatHead;
  rowLabel(point: number): string;
  /** The names of the two lines of a heading; empty when there is one. */
  lines: readonly [string, string] | null;
  /** The number of the first row and column; labels that have no room are thinned to round ones. */
  first: number;
  /** What columns and rows are. */
  across: string;
  down: string;
}

export interface HeatMarks {
  source: Cell | null;
  target: Cell | null;
  /** Rows and columns that a change of the target can reach; null while nothing is chosen. */
  reach: { fromPoint: number; fromPosition: number } | null;
  /** Targets of the patches in the list, with their numbers there. */
  listed: readonly { cell: Cell; label: string; on: boolean }[];
}

/** Entries of both axes that go together, first and last. */
export interface HeatGroup {
  first: number;
  last: number;
}

export interface HeatScene extends Surface {
  source: HeatSource;
  scale: ColorScale;
  selected: Cell | null;
  hover: Cell | null;
  marks: HeatMarks;
  /** Groups along the diagonal. */
  groups: readonly HeatGroup[];
  /** A row that is pointed at from elsewhere. */
  row: number | null;
  focused: boolean;
}
