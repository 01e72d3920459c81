import type { ArrayInfo } from "../../wire/arrays";
import { roleOf } from "./data";

/** Whether a measure is drawn as cells: a matrix, heads, or one entry at a time of a third axis. */
export function isGrid({ kind, dims, dtype }: ArrayInfo): boolean {
  if (kind === "matrix" || kind === "heads") return true;
  return dtype === "float" && dims.length === 3 && roleOf(dims[0] ?? "", undefined) === "layer";
}

/** Whether a measure is drawn as curves: over layers, or over an axis of its own. */
export function isCurve({ kind, dtype }: ArrayInfo): boolean {
  return dtype === "float" && (kind === "curve" || kind === "lines" || kind === "profile");
}

/** The table of a measure that a layer has several of: tokens and places, with their numbers. */
export function tableOf({ kind, dims, dtype, metric, other }: ArrayInfo): string {
  if (other || dims.length !== 2 || (kind !== "table" && kind !== "lines")) return "";
  return dtype === "float" && kind === "table" ? "" : `${metric}|${dims.join()}`;
}
