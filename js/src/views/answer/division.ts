import type { AnswerMeta } from "../../wire/answer";
import type { ArrayInfo } from "../../wire/arrays";
import { alongOf, eachOf } from "../arrays/data";
import type { Division } from "../arrays/state";

/** More curves than this in one chart cannot be told apart. */
const MOST_CURVES = 12;
/** So few things are listed with their numbers instead of drawn; more where some are whole. */
const MOST_LISTED = 8;
/** A table of one entry with more rows than this is read in the grid instead. */
const MOST_ROWS = 24;

/**
 * What is drawn how: cells for what has two long axes or three, curves for the rest. In the view of
 * grids everything over the axes of the first grid is one too, however short they are.
 */
export function divisionOf(view: string): Division<AnswerMeta> {
  const grids = view === "grid";
  return {
    grid: (array, meta) => drawable(array) && isGrid(array, meta, grids),
    curve: (array, meta) => {
      const { length } = array.dims;
      if (!drawable(array) || length === 0 || isGrid(array, meta, grids)) return false;
      return length > 1 || !tableOf(array, meta);
    },
    table: tableOf,
  };
}

function drawable({ dtype, kind }: ArrayInfo): boolean {
  return dtype !== "token" && kind !== "clusters";
}

function isGrid(array: ArrayInfo, meta: AnswerMeta, grids: boolean): boolean {
  const { dims, kind } = array;
  if (dims.length < 2) return false;
  if (dims.length > 2 || kind === "matrix" || kind === "heads") return true;
  const curves = meta.axes[eachOf(array, meta)]?.size ?? 0;
  if (curves > MOST_CURVES || !isOrdered(alongOf(array, meta), meta)) return true;
  return grids && mainOf(meta) === dims.join();
}

/** The axes of what a view of grids is about: the first array of numbers that has two or more. */
function mainOf(meta: AnswerMeta): string {
  const main = meta.arrays.find((array) => drawable(array) && array.dims.length > 1);
  return main?.dims.join() ?? "";
}

/** Whether an axis has an order that a curve can follow: layers, or entries that are numbers. */
function isOrdered(dim: string, { axes }: AnswerMeta): boolean {
  const { labels = [], role = "" } = axes[dim] ?? {};
  return role !== "" || labels.every((label) => !Number.isNaN(Number(label)));
}

/** Tokens are read in tables, beside all that is said of the same entries; and so are lists. */
function tableOf(array: ArrayInfo, meta: AnswerMeta): string {
  const { dims } = array;
  const { arrays, axes } = meta;
  const key = dims.join();
  const dim = dims.at(-1) ?? "";
  const last = axes[dim];
  if (dims.length < 1 || dims.length > 2 || !last || last.tokens) return "";
  // What is known of every token or head is read in the cells.
  if (dims.length === 2 && (last.size > MOST_ROWS || last.role)) return "";
  const beside = arrays.filter((other) => other.dims.join() === key);
  if (dims.length === 1 && !isOrdered(dim, meta)) {
    // Whole numbers of things in no order name layers, heads and the like: nothing to be drawn.
    if (last.size <= MOST_LISTED || beside.some(({ dtype }) => dtype === "int")) return key;
  }
  return beside.some(({ dtype }) => dtype === "token") ? key : "";
}
