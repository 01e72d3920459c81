import { beforeEach, describe, expect, it, vi } from "vitest";
import { Chart, decades, rowTicks } from "../src/marks/chart";
import { lineStyle, paletteOf } from "../src/theme/palette";
import { stubBrowser } from "./page";

describe("the chart", () => {
  beforeEach(stubBrowser);

  it("labels rows that do not touch, the last one always", () => {
    expect(rowTicks(5, 600)).toEqual([0, 1, 2, 3, 4]);
    const ticks = rowTicks(62, 600);
    expect(ticks.at(-1)).toBe(61);
    expect(ticks.length).toBeLessThan(12);
  });

  it("labels powers of ten down to the lowest", () => {
    expect(decades(1e-3)).toEqual([1e-3, 1e-2, 1e-1, 1]);
    expect(decades(1e-12).length).toBeLessThan(9);
  });

  it("goes to the row that is pressed, and to none beside the axes", () => {
    const host = document.createElement("div");
    const choose = vi.fn();
    const chart = new Chart(host, choose);
    const lines = [{ style: lineStyle(0), values: [0.1, null, 0.3, 0.4] }];
    const labels = ["a", "b", "c", "d"];
    chart.draw({ labels, lines, palette: paletteOf(false), log: true, font: "serif", at: 0 });
    chart.resize(468); // four rows of 100 pixels between the axes
    const press = (x: number) => {
      const event = new MouseEvent("click");
      Object.defineProperty(event, "offsetX", { value: x });
      host.querySelector("canvas")?.dispatchEvent(event);
    };
    press(54 + 250);
    press(20);
    expect(choose.mock.calls).toEqual([[2]]);
    chart.dispose();
    expect(host.childElementCount).toBe(0);
  });
});
