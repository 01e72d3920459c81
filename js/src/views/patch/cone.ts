import type { Cell } from "../../marks/windowing";
import type { Axis } from "../../wire/patch";

/** The corner of what a change can reach; everything above and to the right of it belongs to it. */
export interface Reach {
  fromPoint: number;
  fromPosition: number;
}

/**
 * What a change at `target` can reach in a causal model, in a grid of one site.
 *
 * The same site of the same layer is not touched elsewhere; later layers are, at this position and
 * after it. A head that is patched at every position reaches all heads of later layers.
 */
export function reachOf(target: Cell, by: Axis): Reach {
  return {
    fromPoint: target.point + 1,
    fromPosition: by === "head" ? 0 : target.position,
  };
}

export function isReached(reach: Reach, cell: Cell): boolean {
  return cell.point >= reach.fromPoint && cell.position >= reach.fromPosition;
}
