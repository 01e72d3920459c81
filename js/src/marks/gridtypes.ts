import type { ColorScale } from "../theme/scale";
import type { Surface } from "./painter";
import type { Cell } from "./windowing";

/** What the table asks of the data; every answer must be quick, it is asked for each cell drawn. */
export interface GridSource {
  arrived(point: number, position: number): boolean;
  /** The number that colours a cell; NaN where there is none. */
  value(point: number, position: number): number;
  topId(point: number, position: number): number;
  topText(point: number, position: number): string;
  tokenText(position: number): string;
  continues(position: number): boolean;
  pointLabel(point: number): string;
  /** The first row from which the top token stays the final one; -1 while unknown. */
  settled(position: number): number;
  /** Whether what stands in a row is not to be believed. */
  doubtful?(point: number): boolean;
}

/** Curves beside the rows: how far each lens is from the final answer at each point. */
export interface Scores {
  lines: readonly {
    values: readonly number[];
    color: string;
    dash: number[];
    /** Whether the table shows this one. */
    shown: boolean;
  }[];
  /** Where a uniform guess lies, and where the curves end. */
  uniform: readonly number[];
  most: number;
}

export interface Scene extends Surface {
  source: GridSource;
  scale: ColorScale;
  selected: Cell;
  hover: Cell | null;
  pins: readonly { position: number; id: number; color: string }[];
  focused: boolean;
  scores?: Scores | undefined;
}
