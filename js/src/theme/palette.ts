/**
 * The colours of both themes. The same values go into CSS variables (applied to the root) and onto
 * the canvases, so that a page can never show half of one theme and half of the other.
 */

export interface Palette {
  name: "light" | "dark";
  /** The page under the table, and the end of every probability blend at 0. */
  bg: string;
  raised: string;
  sunken: string;
  line: string;
  strong: string;
  fg: string;
  dim: string;
  faint: string;
  accent: string;
  onAccent: string;
  base: string;
  trackedBase: string;
  good: string;
  bad: string;
  warn: string;
  /** The ends of the diverging scale; its centre is the page. */
  positive: string;
  negative: string;
  /** Where a patch comes from, where it goes, and what it can change. */
  source: string;
  target: string;
  affected: string;
}

const LIGHT: Palette = {
  name: "light",
  bg: "#ffffff",
  raised: "#f7f8fa",
  sunken: "#eef0f3",
  line: "#e2e5ea",
  strong: "#c3c9d1",
  fg: "#1a1e24",
  dim: "#535d69",
  faint: "#5d6772",
  accent: "#0b5cbd",
  onAccent: "#ffffff",
  base: "#1565c0",
  trackedBase: "#8e24aa",
  good: "#18752f",
  bad: "#c5221f",
  warn: "#8a5a00",
  positive: "#1565c0",
  negative: "#b3261e",
  source: "#0891b2",
  target: "#d6246e",
  affected: "#7c3aed",
};

const DARK: Palette = {
  name: "dark",
  bg: "#1e1e1e",
  raised: "#262729",
  sunken: "#2d2f32",
  line: "#36383c",
  strong: "#53575d",
  fg: "#e6e8eb",
  dim: "#aeb4bc",
  faint: "#989fa8",
  accent: "#79b8ff",
  onAccent: "#10243a",
  base: "#2b78cc",
  trackedBase: "#9a4fb0",
  good: "#57c26f",
  bad: "#ff8a80",
  warn: "#e3b341",
  positive: "#5aa9f5",
  negative: "#f28b82",
  source: "#22d3ee",
  target: "#ff7ab8",
  affected: "#bb9bff",
};

export function paletteOf(dark: boolean): Palette {
  return dark ? DARK : LIGHT;
}

/** Colours and dashes of pinned tokens; the dash tells lines apart without colour. */
export const LINE_COLORS = [
  "#2196F3",
  "#e91e63",
  "#4CAF50",
  "#FF9800",
  "#9C27B0",
  "#00BCD4",
  "#F44336",
  "#8BC34A",
] as const;

export const LINE_DASHES: readonly (readonly number[])[] = [[], [7, 4], [2, 3], [9, 3, 2, 3]];

export interface LineStyle {
  color: string;
  dash: number[];
}

/** The style of the i-th pin; colour and dash run through different cycles. */
export function lineStyle(index: number): LineStyle {
  const round = Math.floor(index / LINE_COLORS.length);
  return {
    color: LINE_COLORS[index % LINE_COLORS.length] as string,
    dash: [...(LINE_DASHES[(index + round) % LINE_DASHES.length] as readonly number[])],
  };
}

export function applyPalette(element: HTMLElement, palette: Palette): void {
  for (const [name, value] of Object.entries(palette)) {
    if (name !== "name") element.style.setProperty(`--ll-${kebab(name)}`, value);
  }
  element.dataset.theme = palette.name;
}

function kebab(name: string): string {
  return name.replace(/[A-Z]/g, (letter) => `-${letter.toLowerCase()}`);
}
