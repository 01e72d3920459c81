import { mix, parseHex, rampColors, toCss } from "../../theme/colors";
import type { Palette } from "../../theme/palette";
import { viridis } from "../../theme/tables";

/** Colours that are told apart with any kind of sight (Okabe and Ito 2008). */
export const HUES = ["#0072b2", "#e69f00", "#009e73", "#d55e00", "#56b4e9", "#cc79a7"] as const;
const NONE = "#8a919a";

type Draw = (path: Path2D, r: number) => void;

/** Shapes and hues run through different cycles, so that few labels share one of them. */
export const SHAPES: readonly Draw[] = [
  (path, r) => path.arc(0, 0, r, 0, 2 * Math.PI),
  (path, r) => path.rect(-0.9 * r, -0.9 * r, 1.8 * r, 1.8 * r),
  (path, r) => polygon(path, 3, 1.25 * r, -Math.PI / 2),
  (path, r) => polygon(path, 4, 1.25 * r, -Math.PI / 2),
  (path, r) => polygon(path, 3, 1.25 * r, Math.PI / 2),
  (path, r) => star(path, r, 4, 0),
  (path, r) => star(path, 1.3 * r, 5, -Math.PI / 2),
];

function polygon(path: Path2D, corners: number, r: number, turn: number): void {
  for (let i = 0; i < corners; i++) {
    const angle = turn + (2 * Math.PI * i) / corners;
    const [x, y] = [r * Math.cos(angle), r * Math.sin(angle)];
    if (i === 0) path.moveTo(x, y);
    else path.lineTo(x, y);
  }
  path.closePath();
}

function star(path: Path2D, r: number, arms: number, turn: number): void {
  for (let i = 0; i < 2 * arms; i++) {
    const angle = turn + (Math.PI * i) / arms;
    const far = (i % 2 === 0 ? 1.25 : 0.5) * r;
    const [x, y] = [far * Math.cos(angle), far * Math.sin(angle)];
    if (i === 0) path.moveTo(x, y);
    else path.lineTo(x, y);
  }
  path.closePath();
}

export interface MarkStyle {
  hue: string;
  shape: number;
}

/** How the marks of a label look; those of no label are grey. */
export function styleOf(label: number): MarkStyle {
  if (label < 0) return { hue: NONE, shape: 0 };
  return { hue: HUES[label % HUES.length] as string, shape: label % SHAPES.length };
}

const DEPTHS = rampColors(viridis.match(/.{6}/g) ?? []);
/** Which part of the ramp is drawn, of 1: its ends are lost on a dark and on a light page. */
const [FIRST, LAST] = [0.3, 0.92];

/** The colour of a mark that is a layer, from the first to the last. */
export function depthHue(item: number, size: number): string {
  const depth = FIRST + ((LAST - FIRST) * item) / Math.max(1, size - 1);
  return toCss(DEPTHS[Math.round(255 * depth)] ?? [0, 0, 0]);
}

/** A mark drawn once. Its edge is the page's ink, so that light hues are seen. */
export function imageOf(
  style: MarkStyle,
  hollow: boolean,
  radius: number,
  palette: Palette,
  ratio: number,
): HTMLCanvasElement {
  const image = document.createElement("canvas");
  image.width = image.height = Math.ceil(2 * (1.4 * radius + 1.5) * ratio);
  const ctx = image.getContext("2d");
  if (!ctx) return image;
  ctx.setTransform(ratio, 0, 0, ratio, image.width / 2, image.height / 2);
  const path = new Path2D();
  SHAPES[style.shape]?.(path, radius);
  if (hollow) {
    ctx.strokeStyle = style.hue;
    ctx.lineWidth = 1.2;
  } else {
    ctx.fillStyle = style.hue;
    ctx.fill(path);
    ctx.strokeStyle = edgeOf(style.hue, palette);
    ctx.lineWidth = 0.7;
  }
  ctx.stroke(path);
  return image;
}

function edgeOf(hue: string, palette: Palette): string {
  return hue.startsWith("#") ? toCss(mix(parseHex(hue), parseHex(palette.fg), 0.45)) : palette.fg;
}

/** Smaller where there are many. */
export function radiusOf(marks: number): number {
  return marks > 3000 ? 2.2 : marks > 500 ? 3.2 : 4.6;
}
