/** Small colour arithmetic: hex strings, mixing, and the ink that can be read on a colour. */

export type Rgb = readonly [number, number, number];

export function parseHex(hex: string): Rgb {
  const digits = hex.startsWith("#") ? hex.slice(1) : hex;
  const value = Number.parseInt(digits, 16);
  return [(value >> 16) & 255, (value >> 8) & 255, value & 255];
}

export function toCss([r, g, b]: Rgb): string {
  return `rgb(${r},${g},${b})`;
}

export function mix(from: Rgb, to: Rgb, amount: number): Rgb {
  const channel = (i: 0 | 1 | 2) => Math.round(from[i] + (to[i] - from[i]) * amount);
  return [channel(0), channel(1), channel(2)];
}

/** Relative luminance after WCAG 2. */
export function luminance(rgb: Rgb): number {
  const [r, g, b] = rgb.map((v) => {
    const s = v / 255;
    return s <= 0.04045 ? s / 12.92 : ((s + 0.055) / 1.055) ** 2.4;
  }) as unknown as Rgb;
  return 0.2126 * r + 0.7152 * g + 0.0722 * b;
}

export function contrast(a: Rgb, b: Rgb): number {
  const [high, low] = [luminance(a), luminance(b)].sort((x, y) => y - x) as [number, number];
  return (high + 0.05) / (low + 0.05);
}

const INK_DARK: Rgb = [18, 22, 28];
const INK_LIGHT: Rgb = [255, 255, 255];
const BLACK: Rgb = [0, 0, 0];

/** What text needs to be readable, by WCAG 2. */
export const READABLE = 4.5;

/** Near-black or white, whichever reads better on this colour; black where neither is enough. */
export function inkOn(background: Rgb): Rgb {
  const [dark, light] = [contrast(background, INK_DARK), contrast(background, INK_LIGHT)];
  if (Math.max(dark, light) < READABLE) return BLACK;
  return dark >= light ? INK_DARK : INK_LIGHT;
}

/** 256 colours through those of a table of 6 hexadecimal digits each. */
export function tableColors(table: string): Rgb[] {
  return rampColors(table.match(/.{6}/g) ?? []);
}

/** 256 colours through any number of evenly spaced ones. */
export function rampColors(stops: readonly string[]): Rgb[] {
  const colors = stops.map(parseHex);
  return Array.from({ length: 256 }, (_, i) => {
    const at = (i / 255) * (colors.length - 1);
    const from = Math.min(Math.floor(at), colors.length - 2);
    return mix(colors[from] as Rgb, colors[from + 1] as Rgb, at - from);
  });
}
