import { expect, test } from "vitest";
import { boxOf } from "../src/views/lens/Seen";

test("a patch lies where its row and column are", () => {
  const picture = { kind: "images", rows: 2, columns: 4, first: 1, source: "" } as const;
  expect(boxOf(picture, 0, 9)).toBeNull();
  expect(boxOf(picture, 6, 9)).toEqual({ x: 0.25, y: 0.5, width: 0.25, height: 0.5 });
});

test("a frame lies where its time is", () => {
  const picture = { kind: "audio", seconds: 0.02, wave: [] as [number, number][] } as const;
  expect(boxOf(picture, 3, 4)).toEqual({ x: 0.75, y: 0, width: 0.25, height: 1 });
});
