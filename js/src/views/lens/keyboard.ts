import type { Cell, GridShape } from "../../marks/windowing";
import { type KeyPress, moveKey } from "../common/movekeys";

export type KeyAction =
  | { kind: "move"; cell: Cell }
  | { kind: "open" }
  | { kind: "pin" }
  | { kind: "branch" }
  | { kind: "close" }
  | { kind: "help" };

/** What a key does in the table; null leaves it to the page. `page` is the rows seen at once. */
export function keyAction(
  press: KeyPress,
  shape: GridShape,
  selected: Cell,
  page: number,
): KeyAction | null {
  const cell = moveKey(press, shape, selected, page);
  if (cell) return { kind: "move", cell };
  if (press.ctrlKey || press.metaKey || press.altKey) return null;
  switch (press.key) {
    case "Enter":
    case " ":
      return { kind: "open" };
    case "p":
    case "P":
      return { kind: "pin" };
    case "b":
    case "B":
      return { kind: "branch" };
    case "Escape":
      return { kind: "close" };
    case "?":
      return { kind: "help" };
    default:
      return null;
  }
}
