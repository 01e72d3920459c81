import type { Cell } from "../../marks/windowing";

/**
 * The way of a patch from where its value is read to where it is put, by mouse or by keyboard.
 *
 * idle: nothing chosen. pressed: the button is down and has not left its cell. dragging: it has.
 * picked: a source was chosen by key or button and waits for its target.
 */
export type Drag =
  | { kind: "idle" }
  | { kind: "pressed"; from: Cell; picked: Cell | null }
  | { kind: "dragging"; from: Cell; over: Cell | null }
  | { kind: "picked"; from: Cell };

export type DragEvent =
  | { type: "press" | "enter" | "pick"; cell: Cell }
  | { type: "over" | "release"; cell: Cell | null }
  | { type: "cancel" };

/** What a step asks for: to look at a cell, or to patch from one place to another. */
export type Outcome = { kind: "look"; cell: Cell } | { kind: "patch"; from: Cell; to: Cell } | null;

export const IDLE: Drag = { kind: "idle" };

export function sameCell(a: Cell | null, b: Cell | null): boolean {
  return a?.point === b?.point && a?.position === b?.position;
}

export function step(drag: Drag, event: DragEvent): [Drag, Outcome] {
  switch (event.type) {
    case "cancel":
      return [IDLE, null];
    case "pick":
      return [{ kind: "picked", from: event.cell }, null];
    case "press": {
      const picked = drag.kind === "picked" ? drag.from : null;
      return [{ kind: "pressed", from: event.cell, picked }, null];
    }
    case "enter":
      if (drag.kind === "picked") {
        return [IDLE, { kind: "patch", from: drag.from, to: event.cell }];
      }
      return [
        { kind: "picked", from: event.cell },
        { kind: "look", cell: event.cell },
      ];
    case "over":
      if (drag.kind === "dragging") return [{ ...drag, over: event.cell }, null];
      if (drag.kind !== "pressed" || sameCell(drag.from, event.cell)) return [drag, null];
      return [{ kind: "dragging", from: drag.from, over: event.cell }, null];
    case "release":
      return released(drag, event.cell);
  }
}

function released(drag: Drag, cell: Cell | null): [Drag, Outcome] {
  if (drag.kind === "pressed") {
    const to = drag.from;
    if (drag.picked) return [IDLE, { kind: "patch", from: drag.picked, to }];
    return [IDLE, { kind: "look", cell: to }];
  }
  if (drag.kind !== "dragging") return [drag, null];
  // Back at the start, or off the grid: the way is given up.
  if (!cell || sameCell(cell, drag.from)) return [IDLE, null];
  return [IDLE, { kind: "patch", from: drag.from, to: cell }];
}
