import { describe, expect, it } from "vitest";
import {
  cellAt,
  edgeNear,
  type GridShape,
  hitTest,
  placeOf,
  scrollToShow,
  visibleRange,
} from "../src/marks/windowing";
import type { KeyPress } from "../src/views/common/movekeys";
import { keyAction } from "../src/views/lens/keyboard";
import { fromEnd } from "../src/views/lens/state";

const SHAPE: GridShape = {
  points: 5,
  positions: 8,
  transposed: false,
  cellWidth: 50,
  rowHeight: 20,
  headWidth: 60,
  headHeight: 40,
};

describe("places", () => {
  it("put the final row on top, and layers to the right when transposed", () => {
    expect(cellAt(SHAPE, 0, 3)).toEqual({ point: 4, position: 3 });
    expect(cellAt({ ...SHAPE, transposed: true }, 3, 0)).toEqual({ point: 0, position: 3 });
  });

  it.each([false, true])("turn back into cells (transposed %s)", (transposed) => {
    const shape = { ...SHAPE, transposed };
    for (let point = 0; point < 5; point++) {
      for (let position = 0; position < 8; position++) {
        const { row, column } = placeOf(shape, { point, position });
        expect(cellAt(shape, row, column)).toEqual({ point, position });
      }
    }
  });

  it("are found under the pointer, scrolled or not", () => {
    expect(hitTest(SHAPE, 61, 41, 0, 0)).toEqual({ area: "cell", row: 0, column: 0 });
    expect(hitTest(SHAPE, 61, 41, 100, 40)).toEqual({ area: "cell", row: 2, column: 2 });
    expect(hitTest(SHAPE, 10, 10, 0, 0)?.area).toBe("corner");
    expect(hitTest(SHAPE, 10, 41, 0, 0)).toEqual({ area: "row", row: 0, column: -1 });
    expect(hitTest(SHAPE, 120, 5, 0, 0)).toEqual({ area: "column", row: -1, column: 1 });
    expect(hitTest(SHAPE, 900, 60, 0, 0)).toBeNull();
  });

  it("have edges that can be taken hold of in the heading only", () => {
    expect(edgeNear(SHAPE, 111, 5, 0)).toBe(0);
    expect(edgeNear(SHAPE, 130, 5, 0)).toBe(-1);
    expect(edgeNear(SHAPE, 111, 100, 0)).toBe(-1);
    expect(edgeNear(SHAPE, 111, 5, 50)).toBe(1);
  });
});

describe("the window", () => {
  it("covers what touches the viewport and nothing else", () => {
    expect(visibleRange(0, 260, 60, 50, 8)).toEqual({ from: 0, to: 4 });
    expect(visibleRange(75, 260, 60, 50, 8)).toEqual({ from: 1, to: 6 });
    expect(visibleRange(9999, 260, 60, 50, 8)).toEqual({ from: 8, to: 8 });
  });

  it("moves as little as needed to show a cell", () => {
    expect(scrollToShow(3, 50, 60, 0, 260)).toBe(0);
    expect(scrollToShow(6, 50, 60, 0, 260)).toBe(150);
    expect(scrollToShow(1, 50, 60, 150, 260)).toBe(50);
  });

  it("counts negative positions from the end", () => {
    expect(fromEnd(-1, 8)).toBe(7);
    expect(fromEnd(99, 8)).toBe(7);
    expect(fromEnd(-99, 8)).toBe(0);
  });
});

describe("keys", () => {
  const press = (key: string, over: Partial<KeyPress> = {}): KeyPress => ({
    key,
    ctrlKey: false,
    metaKey: false,
    altKey: false,
    ...over,
  });
  const from = { point: 2, position: 3 };
  it.each([
    ["ArrowUp", { point: 3, position: 3 }],
    ["ArrowDown", { point: 1, position: 3 }],
    ["ArrowLeft", { point: 2, position: 2 }],
    ["ArrowRight", { point: 2, position: 4 }],
    ["Home", { point: 2, position: 0 }],
    ["End", { point: 2, position: 7 }],
    ["PageUp", { point: 4, position: 3 }],
    ["PageDown", { point: 0, position: 3 }],
  ])("%s moves", (key, cell) => {
    expect(keyAction(press(key), SHAPE, from, 10)).toEqual({ kind: "move", cell });
  });

  it("follow the picture when it is transposed", () => {
    const action = keyAction(press("ArrowRight"), { ...SHAPE, transposed: true }, from, 10);
    expect(action).toEqual({ kind: "move", cell: { point: 3, position: 3 } });
  });

  it("stop at the edges", () => {
    const action = keyAction(press("ArrowUp"), SHAPE, { point: 4, position: 0 }, 10);
    expect(action).toEqual({ kind: "move", cell: { point: 4, position: 0 } });
  });

  it("open, pin, close, explain; the rest is left to the page", () => {
    expect(keyAction(press("Enter"), SHAPE, from, 1)?.kind).toBe("open");
    expect(keyAction(press("p"), SHAPE, from, 1)?.kind).toBe("pin");
    expect(keyAction(press("Escape"), SHAPE, from, 1)?.kind).toBe("close");
    expect(keyAction(press("?"), SHAPE, from, 1)?.kind).toBe("help");
    expect(keyAction(press("x"), SHAPE, from, 1)).toBeNull();
    expect(keyAction(press("s", { ctrlKey: true }), SHAPE, from, 1)).toBeNull();
    expect(keyAction(press("ArrowUp", { metaKey: true }), SHAPE, from, 1)).toBeNull();
  });
});

it("columns fill the room between two ends", async () => {
  const { fittingWidth } = await import("../src/views/common/canvasgrid");
  expect(fittingWidth(500, 5, 56, 112)).toBe(100);
  expect(fittingWidth(500, 2, 56, 112)).toBe(112);
  expect(fittingWidth(500, 40, 56, 112)).toBe(56);
  expect(fittingWidth(500, 0, 56, 112)).toBe(112);
});
