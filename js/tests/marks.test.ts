import { describe, expect, it } from "vitest";
import { plain, splitSpaces, TextFitter, visible } from "../src/marks/text";
import { contrast, inkOn, parseHex, READABLE, rampColors, tableColors } from "../src/theme/colors";
import { lineStyle, paletteOf } from "../src/theme/palette";
import { divergingScale, makeScale } from "../src/theme/scale";
import { cividis, viridis } from "../src/theme/tables";
import { nats, percent, scientific, whole } from "../src/views/common/format";
import { COLOR_MODES, type ColorMode } from "../src/wire/lens";

describe("token text", () => {
  it("marks spaces, line ends and controls", () => {
    expect(plain(" the")).toBe("␣the");
    expect(plain("\n\n")).toBe("↵↵");
    expect(plain("  ")).toBe("␣␣");
    expect(plain("a ")).toBe("a␣");
    expect(plain("")).toBe("(empty)");
    expect(visible("\u0007")).toBe("\\u{7}");
  });

  it("shows what would turn the line around or hide, and keeps emoji whole", () => {
    expect(visible("a\u202eb")).toBe("a\\u{202e}b");
    expect(visible("\u200d")).toBe("\\u{200d}");
    expect(visible("👩‍👩‍👧")).toBe("👩‍👩‍👧");
  });

  it("leaves markup as text", () => {
    expect(plain("<script>")).toBe("<script>");
    expect(splitSpaces(" שלום")).toEqual({ lead: "␣", body: "שלום", tail: "" });
  });
});

describe("fitting", () => {
  const fitter = () => {
    const calls: string[] = [];
    const measured = new TextFitter((text) => {
      calls.push(text);
      return 10 * Array.from(text).length;
    });
    return { calls, measured };
  };

  it("keeps what fits and cuts the rest at whole characters", () => {
    const { measured } = fitter();
    expect(measured.fit(" the", 40)?.cut).toBe(false);
    expect(measured.fit("international", 50)?.split.body).toBe("inte…");
    expect(measured.fit("👩‍👩‍👧👩‍👩‍👧", 60)?.split.body).toBe("👩‍👩‍👧…");
    expect(measured.fit("word", 5)).toBeNull();
  });

  it("measures each text once", () => {
    const { calls, measured } = fitter();
    measured.fit("abcdefgh", 40);
    const first = calls.length;
    measured.fit("abcdefgh", 40);
    expect(calls.length).toBe(first);
  });
});

describe("colours", () => {
  const scale = (mode: ColorMode, dark = false) =>
    makeScale({ mode, palette: paletteOf(dark), vocabulary: 49_152, klMax: 7.2, trackedText: "x" });

  it("come from complete tables", () => {
    for (const table of [viridis, cividis]) expect(table).toMatch(/^[0-9a-f]{312}$/);
    expect(tableColors(viridis)[0]).toEqual([0x44, 0x01, 0x54]);
    expect(tableColors(viridis)[255]).toEqual([0xfd, 0xe7, 0x24]);
    expect(tableColors(viridis)).toHaveLength(256);
  });

  it("start at the background for probability 0", () => {
    expect(scale("probability").fills[0]).toBe("rgb(255,255,255)");
    expect(scale("probability", true).fills[0]).toBe("rgb(30,30,30)");
    expect(scale("probability").index(1)).toBe(255);
    expect(scale("probability").index(0.5)).toBe(128);
  });

  it("have fixed ranges: the largest entropy is ln(vocabulary), rank is logarithmic", () => {
    expect(scale("entropy").index(Math.log(49_152))).toBe(255);
    expect(scale("rank").index(1)).toBe(0);
    expect(scale("rank").place(Math.sqrt(49_152))).toBeCloseTo(0.5, 6);
    expect(scale("kl").place(8)).toBe(1);
  });

  it("say where there is no number, and clamp what lies outside", () => {
    expect(scale("entropy").index(Number.NaN)).toBe(-1);
    expect(scale("kl").index(99)).toBe(255);
    expect(scale("kl").index(-1)).toBe(0);
  });

  it("diverge from the page, blue above and red below, readable at both ends and between", () => {
    const rgb = (css: string) => (css.match(/\d+/g) ?? []).map(Number) as [number, number, number];
    for (const dark of [false, true]) {
      const { fills, inks, ...rest } = divergingScale(paletteOf(dark), "Recovered", "1");
      const scale = divergingScale(paletteOf(dark), "Recovered", "1");
      expect(rest.ticks.map((tick) => tick.label)).toEqual(["−1", "−0.5", "0", "0.5", "1"]);
      expect(
        contrast(rgb(fills[scale.index(0)] as string), parseHex(paletteOf(dark).bg)),
      ).toBeLessThan(1.02);
      const [red, , redBlue] = rgb(fills[scale.index(-9)] as string);
      const [blueRed, , blue] = rgb(fills[scale.index(9)] as string);
      expect(red).toBeGreaterThan(redBlue);
      expect(blue).toBeGreaterThan(blueRed);
      fills.forEach((fill, i) => {
        expect(contrast(rgb(fill), rgb(inks[i] as string))).toBeGreaterThanOrEqual(READABLE);
      });
    }
  });

  it.each(COLOR_MODES)(
    "leave text readable everywhere (%s)",
    (mode) => {
      for (const dark of [false, true]) {
        for (const [i, fill] of scale(mode, dark).fills.entries()) {
          const rgb = (css: string) => (css.match(/\d+/g) ?? []).map(Number) as never;
          const ink = scale(mode, dark).inks[i] as string;
          expect(contrast(rgb(fill), rgb(ink))).toBeGreaterThanOrEqual(READABLE);
        }
      }
    },
    20_000,
  );

  it("give every mode a legend with ends and a unit", () => {
    for (const mode of COLOR_MODES) {
      expect(scale(mode).unit).not.toBe("");
      expect(scale(mode).ticks.length).toBeGreaterThan(2);
      for (const tick of scale(mode).ticks) expect(tick.at).toBeLessThanOrEqual(1);
    }
  });

  it("pick readable ink and tell lines apart", () => {
    expect(inkOn(parseHex("#000000"))).toEqual([255, 255, 255]);
    expect(rampColors(["#000000", "#ffffff"])[255]).toEqual([255, 255, 255]);
    const styles = Array.from({ length: 32 }, (_, i) => JSON.stringify(lineStyle(i)));
    expect(new Set(styles).size).toBe(32);
  });
});

describe("words on a page", () => {
  it.each(["light", "dark"])("can be read on each of its grounds (%s)", (name) => {
    const palette = paletteOf(name === "dark");
    for (const ground of [palette.bg, palette.raised, palette.sunken]) {
      const { fg, dim, faint, accent, good, bad, warn } = palette;
      for (const ink of [fg, dim, faint, accent, good, bad, warn]) {
        expect(contrast(parseHex(ink), parseHex(ground))).toBeGreaterThanOrEqual(READABLE);
      }
    }
    for (const [ink, ground] of [
      [palette.onAccent, palette.accent],
      [palette.bg, palette.target],
      [palette.bg, palette.faint],
    ] as const) {
      expect(contrast(parseHex(ink), parseHex(ground))).toBeGreaterThanOrEqual(READABLE);
    }
  });
});

describe("numbers", () => {
  it("have always the same digits", () => {
    expect(percent(0.123456)).toBe("12.35%");
    expect(percent(1e-9)).toBe("<0.01%");
    expect(percent(0)).toBe("0.00%");
    expect(percent(Number.NaN)).toBe("–");
    expect(nats(1.5)).toBe("1.500 nats");
    expect(whole(49152)).toBe("49\u2009152");
    expect(scientific(3.14e-7)).toBe("3.1e-7");
    expect(scientific(0)).toBe("0");
  });
});
