import type { Cell, GridShape } from "../../marks/windowing";
import { type KeyPress, moveKey } from "../common/movekeys";

export type PatchKey = { kind: "move"; cell: Cell } | { kind: "enter" | "add" | "cancel" | "help" };

/** What a key does in the grid; null leaves it to the page. */
export function patchKey(
  press: KeyPress,
  shape: GridShape,
  selected: Cell,
  page: number,
): PatchKey | null {
  const cell = moveKey(press, shape, selected, page);
  if (cell) return { kind: "move", cell };
  if (press.ctrlKey || press.metaKey || press.altKey) return null;
  switch (press.key) {
    case "Enter":
    case " ":
      return { kind: "enter" };
    case "a":
    case "A":
      return { kind: "add" };
    case "Escape":
      return { kind: "cancel" };
    case "?":
      return { kind: "help" };
    default:
      return null;
  }
}
