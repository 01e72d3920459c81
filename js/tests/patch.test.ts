import { describe, expect, it } from "vitest";
import { written } from "../src/marks/numbers";
import type { Cell, GridShape } from "../src/marks/windowing";
import { LensData } from "../src/views/lens/data";
import { chosen } from "../src/views/patch/Changes";
import { isReached, reachOf } from "../src/views/patch/cone";
import { amongStrongest, hardlyDiffer, PatchData } from "../src/views/patch/data";
import { type Drag, type DragEvent, IDLE, type Outcome, step } from "../src/views/patch/drag";
import { said } from "../src/views/patch/Estimates";
import {
  describe as describeEdit,
  editBetween,
  inForce,
  keyOf,
  targetPlace,
  toggled,
  withEdit,
  without,
} from "../src/views/patch/edits";
import { patchKey } from "../src/views/patch/keyboard";
import { DifferenceData } from "../src/views/patch/lenspair";
import { inUnits, metricName } from "../src/views/patch/Numbers";
import { Timeline } from "../src/views/patch/timeline";
import { LENS } from "../src/wire/lens";
import { PATCH } from "../src/wire/patch";
import { RunStore } from "../src/wire/store";
import { makeEstimate, makeMeta, makePatchMeta, makeRow, makeSweep } from "./fixtures";

const at = (point: number, position: number): Cell => ({ point, position });

function filled(meta = makePatchMeta()) {
  const store = new RunStore(meta, PATCH);
  const { header, buffers } = makeSweep(meta.columns.length, meta.by);
  store.apply(header, buffers);
  return new PatchData(store);
}

describe("an estimate that is drawn first", () => {
  function estimated(frames: number, rows = 1, meta = makePatchMeta()) {
    const store = new RunStore(meta, PATCH);
    for (const { header, buffers } of makeEstimate(rows).slice(0, frames)) {
      store.apply(header, buffers);
    }
    return new PatchData(store);
  }

  it("is in the picture as one until the true number comes", () => {
    const source = estimated(1).source();
    expect(source.arrived(2, 3)).toBe(true);
    expect(source.value(2, 3)).toBeCloseTo(0.55);
    expect(source.guessed?.(2, 3)).toBe(true);
    const data = estimated(2);
    expect(data.source().guessed?.(0, 3)).toBe(false);
    expect(data.source().value(0, 3)).toBeCloseTo(0.2);
    expect(data.guessed(1, 0)).toBe(true);
    expect(data.recovered(1, 0)).toBeNaN();
    expect(data.strongest()).toEqual(at(0, 3)); // of the true ones
  });

  it("is not asked for where a cell needs no run", () => {
    const data = filled();
    expect(data.guessed(0, 0)).toBe(false);
    expect(data.agreement()).toMatchObject({ left: 0, compared: 0, pearson: Number.NaN });
  });

  it("may agree with all cells and rank the strongest the wrong way round", () => {
    const small = Array.from({ length: 72 }, (_, i): [number, number] => [i / 72, i / 72]);
    const large = Array.from({ length: 8 }, (_, i): [number, number] => [17 - i, 10 + i]);
    expect(amongStrongest([...small, ...large])).toBeCloseTo(-1);
    expect(amongStrongest(small)).toBeNaN();
  });

  it("has no order to tell among the strongest where these hardly differ", () => {
    const small = Array.from({ length: 72 }, (_, i): [number, number] => [i / 144, i / 144]);
    const alike = Array.from({ length: 8 }, (_, i): [number, number] => [1 - i / 9, 1 + i / 200]);
    expect(hardlyDiffer([...small, ...alike])).toBe(true);
    expect(amongStrongest([...small, ...alike])).toBeNaN();
    expect(hardlyDiffer(small)).toBe(false);
  });

  it("is told with how well it agrees so far", () => {
    expect(said(estimated(1), true)).toBe(
      "Hatched, ≈: 12 cells are estimates by attribution patching.",
    );
    const agreement = estimated(2).agreement();
    expect(agreement).toMatchObject({ left: 8, compared: 4 });
    expect(agreement.pearson).toBeCloseTo(1);
    expect(said(estimated(2), true)).toBe(
      "Hatched, ≈: 8 cells are estimates by attribution patching, correlation 1.00 with the true values of 4 cells so far.",
    );
    expect(said(estimated(2), false)).not.toContain("so far");
    expect(said(estimated(2, 3), false)).toBe(
      "First estimated by attribution patching, correlation 1.00 with the true values of 12 cells.",
    );
  });

  it("says why there is none", () => {
    const meta = { ...makePatchMeta(), no_estimate: "a rank has no gradient" };
    expect(said(filled(meta), false)).toBe("No estimate first: a rank has no gradient.");
    expect(said(filled(), false)).toBe("");
  });
});

describe("the cone of a change", () => {
  it("reaches later layers from its own position on, and nothing of its own layer", () => {
    const reach = reachOf(at(1, 2), "position");
    const grid = [0, 1, 2].map((l) => [0, 1, 2, 3].map((t) => isReached(reach, at(l, t))));
    expect(grid).toEqual([
      [false, false, false, false],
      [false, false, false, false],
      [false, false, true, true],
    ]);
  });

  it("reaches every head of later layers when a head is patched everywhere", () => {
    const reach = reachOf(at(1, 1), "head");
    expect(isReached(reach, at(2, 0))).toBe(true);
    expect(isReached(reach, at(1, 0))).toBe(false);
  });

  it("of the last layer is empty", () => {
    expect(reachOf(at(2, 0), "position").fromPoint).toBe(3);
  });
});

describe("the way from source to target", () => {
  function walk(events: DragEvent[], from: Drag = IDLE): [Drag, Outcome[]] {
    const outcomes: Outcome[] = [];
    let drag = from;
    for (const event of events) {
      const [next, outcome] = step(drag, event);
      drag = next;
      if (outcome) outcomes.push(outcome);
    }
    return [drag, outcomes];
  }

  it("is a look when the button goes up where it went down", () => {
    const [drag, outcomes] = walk([
      { type: "press", cell: at(1, 2) },
      { type: "over", cell: at(1, 2) },
      { type: "release", cell: at(1, 2) },
    ]);
    expect(outcomes).toEqual([{ kind: "look", cell: at(1, 2) }]);
    expect(drag).toEqual(IDLE);
  });

  it("is a patch when it goes up elsewhere", () => {
    const [, outcomes] = walk([
      { type: "press", cell: at(0, 1) },
      { type: "over", cell: at(1, 1) },
      { type: "over", cell: at(2, 3) },
      { type: "release", cell: at(2, 3) },
    ]);
    expect(outcomes).toEqual([{ kind: "patch", from: at(0, 1), to: at(2, 3) }]);
  });

  it.each([null, at(0, 1)])("is given up off the grid and back at the start", (end) => {
    const [drag, outcomes] = walk([
      { type: "press", cell: at(0, 1) },
      { type: "over", cell: at(1, 1) },
      { type: "over", cell: end },
      { type: "release", cell: end },
    ]);
    expect(outcomes).toEqual([]);
    expect(drag).toEqual(IDLE);
  });

  it("goes by Enter, arrows, Enter; Enter twice patches in place", () => {
    const keys = (end: Cell): DragEvent[] => [
      { type: "enter", cell: at(1, 1) },
      { type: "enter", cell: end },
    ];
    expect(walk(keys(at(2, 2)))[1]).toEqual([
      { kind: "look", cell: at(1, 1) },
      { kind: "patch", from: at(1, 1), to: at(2, 2) },
    ]);
    expect(walk(keys(at(1, 1)))[1].at(-1)).toEqual({
      kind: "patch",
      from: at(1, 1),
      to: at(1, 1),
    });
  });

  it("lets a picked source be placed by a press, and Escape let it go", () => {
    const pick: DragEvent = { type: "pick", cell: at(0, 0) };
    const press: DragEvent[] = [
      { type: "press", cell: at(2, 1) },
      { type: "release", cell: at(2, 1) },
    ];
    expect(walk([pick, ...press])[1]).toEqual([{ kind: "patch", from: at(0, 0), to: at(2, 1) }]);
    expect(walk([pick, { type: "cancel" }, ...press])[1]).toEqual([
      { kind: "look", cell: at(2, 1) },
    ]);
  });

  it("keeps a picked source while the button goes up elsewhere on the page", () => {
    const [drag] = walk([
      { type: "pick", cell: at(0, 0) },
      { type: "release", cell: null },
    ]);
    expect(drag).toEqual({ kind: "picked", from: at(0, 0) });
  });
});

describe("the list", () => {
  const first = editBetween("resid_pre", "position", at(0, 1), at(2, 3));
  const second = editBetween("resid_pre", "position", at(1, 1), at(1, 1));

  it("holds where a value is put and where it comes from", () => {
    expect(first).toEqual({
      site: "resid_pre",
      layer: 2,
      position: 3,
      head: null,
      from: { layer: 0, position: 1 },
      on: true,
    });
    expect(editBetween("z", "head", at(1, 4), at(1, 4))).toMatchObject({
      position: null,
      head: 4,
      from: { layer: 1, position: null },
    });
  });

  it("takes each patch once; one that is off is switched on again", () => {
    const both = withEdit(withEdit([], first), second);
    const off = toggled(both, 0);
    expect(inForce(off)).toEqual([second]);
    expect(withEdit(off, first)).toEqual(both);
    expect(without(both, 1)).toEqual([first]);
  });

  it("tells patches apart by source, switch and order", () => {
    const elsewhere = { ...first, from: { layer: 1, position: 1 } };
    const keys = [
      [first],
      [elsewhere],
      [{ ...first, on: false }],
      [first, second],
      [second, first],
    ];
    expect(new Set(keys.map(keyOf)).size).toBe(keys.length);
  });

  it("finds a patch in the grid of its own site only", () => {
    expect(targetPlace(first, "resid_pre", "position")).toEqual(at(2, 3));
    expect(targetPlace(first, "attn_out", "position")).toBeNull();
    expect(targetPlace(first, "resid_pre", "head")).toBeNull();
  });

  it("says in words what is put where", () => {
    const data = filled();
    expect(describeEdit(first, data)).toEqual({
      what: "resid pre, layer 2 · ␣is (3)",
      from: "from layer 0 · ␣of (1)",
    });
    expect(describeEdit(second, data).from).toBe("");
  });

  it("goes back and forth, and forgets what was undone at a new change", () => {
    const timeline = new Timeline<number[]>([]);
    timeline.note([1]);
    timeline.note([1]);
    timeline.note([1, 2]);
    expect(timeline.undo()).toEqual([1]);
    expect(timeline.undo()).toEqual([]);
    expect(timeline.undo()).toBeUndefined();
    expect(timeline.canUndo.value).toBe(false);
    expect(timeline.redo()).toEqual([1]);
    timeline.note([3]);
    expect(timeline.canRedo.value).toBe(false);
    expect(timeline.redo()).toBeUndefined();
    expect(timeline.undo()).toEqual([1]);
  });
});

describe("sweep data", () => {
  it("gives numbers by layer and column, and knows which have come", () => {
    const data = filled();
    expect(data.recovered(2, 3)).toBeCloseTo(0.5, 6);
    expect(data.metric(0, 0)).toBeCloseTo(-2, 6);
    expect(data.arrived(2, 3)).toBe(true);
    expect(data.strongest()).toEqual(at(2, 3));
    const empty = new PatchData(new RunStore(makePatchMeta(), PATCH));
    expect(empty.arrived(0, 0)).toBe(false);
    expect(empty.strongest()).toBeNull();
  });

  it("names positions by both tokens where they differ, heads by their number", () => {
    const data = filled();
    expect(data.columnName(2)).toBe("␣France|␣Italy");
    expect(data.columnName(1)).toBe("␣of");
    expect(data.source().head(2)).toEqual({
      upper: " France",
      lower: " Italy",
      differs: true,
      note: "2",
    });
    const heads = filled(makePatchMeta({ by: "head", site: "z", columns: ["0", "1"] }));
    expect(heads.columnName(1)).toBe("head 1");
    expect(heads.recovered(2, 1)).toBeCloseTo(0.3, 6);
  });

  it("knows which layers and positions the cells of a restricted sweep stand for", () => {
    const data = filled(
      makePatchMeta({
        rows: ["4", "8", "9"],
        row_numbers: [4, 8, 9],
        columns: [" Italy"],
        column_numbers: [2],
      }),
    );
    expect(data.placeOf(at(1, 0))).toEqual(at(8, 2));
    expect(data.cellOf(at(8, 2))).toEqual(at(1, 0));
    expect(data.cellOf(at(5, 2))).toBeNull();
    expect(data.columnName(0)).toBe("␣France|␣Italy");
  });

  it("writes numbers with a true minus and no signed zero", () => {
    expect(written(-0.004)).toBe("0.00");
    expect(written(-0.35)).toBe("−0.35");
    expect(inUnits(-3.11872, "logit")).toBe("−3.119 logit");
    expect(inUnits(0.25, "1")).toBe("25.00%");
    expect(inUnits(null, "logit")).toBe("–");
    expect(metricName(makePatchMeta())).toBe("logit difference ␣Paris − ␣Rome");
  });
});

describe("keys of the grid", () => {
  const shape: GridShape = {
    points: 3,
    positions: 4,
    transposed: false,
    cellWidth: 50,
    rowHeight: 20,
    headWidth: 60,
    headHeight: 40,
  };
  const press = (key: string, over = {}) => ({
    key,
    ctrlKey: false,
    metaKey: false,
    altKey: false,
    ...over,
  });

  it("move, run, add, let go, explain; the rest is left to the page", () => {
    const from = at(1, 1);
    expect(patchKey(press("ArrowUp"), shape, from, 1)).toEqual({ kind: "move", cell: at(2, 1) });
    expect(patchKey(press("Enter"), shape, from, 1)?.kind).toBe("enter");
    expect(patchKey(press("a"), shape, from, 1)?.kind).toBe("add");
    expect(patchKey(press("Escape"), shape, from, 1)?.kind).toBe("cancel");
    expect(patchKey(press("?"), shape, from, 1)?.kind).toBe("help");
    expect(patchKey(press("x"), shape, from, 1)).toBeNull();
    expect(patchKey(press("a", { ctrlKey: true }), shape, from, 1)).toBeNull();
  });
});

it("always shows what happens to the answers", () => {
  const tokens = Array.from({ length: 12 }, (_, id) => ({ id, text: "", before: 0, after: 0 }));
  const ids = chosen({ tokens, keep: [2, 10, undefined] }).map((token) => token.id);
  expect(ids).toEqual([0, 1, 2, 3, 4, 5, 6, 10]);
});

describe("the difference of two lenses", () => {
  /** One row whose top token is `first` with probability p, the second one with half of it. */
  function lens(first: number, second: number, p: number) {
    const store = new RunStore(makeMeta({ tracked: [{ id: 7, text: " x" }] }), LENS);
    const { header } = makeRow(0);
    const ids = new Uint32Array([first, second, first, second]);
    const logs = Float32Array.from([p, p / 2, p, p / 2], Math.log);
    const tracked = Float32Array.of(p / 10, p / 10);
    header.arrays.push({
      name: "tracked_probability",
      dims: ["point", "position", "tracked"],
      dtype: "float32",
      start: [0, 0, 0],
      shape: [1, 2, 1],
    });
    store.apply(
      header,
      [ids, logs, tracked].map((a) => new DataView(a.buffer)),
    );
    return store;
  }

  it("is of a tracked token where there is one", () => {
    const data = new DifferenceData(lens(1, 2, 0.8), new LensData(lens(2, 1, 0.2)), 0);
    expect(data.value("probability", 0, 0, 1)).toBeCloseTo(0.06, 6);
  });

  it("or of the top token after the patches", () => {
    const data = new DifferenceData(lens(1, 2, 0.8), new LensData(lens(2, 1, 0.2)), -1);
    expect(data.value("probability", 0, 0, 1)).toBeCloseTo(0.7, 6);
  });

  it("and at least so large for a token that was not among the top k", () => {
    const data = new DifferenceData(lens(5, 6, 0.8), new LensData(lens(2, 1, 0.2)), -1);
    expect(data.probabilityBefore(0, 1, 5).atMost).toBe(true);
    expect(data.value("probability", 0, 0, 1)).toBeCloseTo(0.7, 6);
  });
});
