import { UPRIGHT_BELOW } from "./gridheads";
import type { HeatHead, HeatScene } from "./heattypes";
import { drawFitted, type TextFitter } from "./text";
import { cellAt, type Range } from "./windowing";

type Fitters = (font: string) => TextFitter;

const LINE = 15;
const UPRIGHT = 120;
const PAD = 5;

/** Columns narrower than this have no room for a text. */
const TEXT_FROM = 12;

export function heatHeadHeight(cellWidth: number, lines: number): number {
  if (cellWidth < TEXT_FROM) return 24;
  return cellWidth < UPRIGHT_BELOW ? UPRIGHT : 8 + LINE * (lines + 1);
}

/** Whether a label of this entry has room; of thin rows and columns only every few have one. */
function inStep(index: number, size: number, first: number): boolean {
  const round = (index + first) % (size < 7 ? 10 : 5) === 0;
  // One beside the first would touch it.
  return size >= TEXT_FROM || index === 0 || (round && index > 1);
}

/** The middle of a line of the heading. */
function lineAt(line: number): number {
  return 13 + line * LINE;
}

export function drawHeatColumns(
  ctx: CanvasRenderingContext2D,
  scene: HeatScene,
  columns: Range,
  fitters: Fitters,
): void {
  const { shape, palette } = scene;
  const { headWidth, headHeight, cellWidth } = shape;
  ctx.save();
  ctx.beginPath();
  ctx.rect(headWidth, 0, scene.width - headWidth, headHeight);
  ctx.clip();
  ctx.fillStyle = palette.raised;
  ctx.fillRect(headWidth, 0, scene.width, headHeight);
  for (let column = columns.from; column < columns.to; column++) {
    const x = headWidth + column * cellWidth - scene.scrollLeft;
    const chosen = column === scene.selected?.position;
    if (chosen) {
      ctx.fillStyle = palette.accent;
      ctx.fillRect(x, 0, cellWidth - 1, headHeight - 1);
    }
    const ink = chosen ? palette.onAccent : palette.fg;
    if (cellWidth < UPRIGHT_BELOW) upright(ctx, scene, column, x, ink, fitters);
    else level(ctx, scene, scene.source.head(column), x, ink, fitters);
    if (cellWidth < TEXT_FROM) continue;
    ctx.fillStyle = palette.line;
    ctx.fillRect(x + cellWidth - 1, 0, 1, headHeight);
  }
  ctx.fillStyle = palette.strong;
  ctx.fillRect(headWidth, headHeight - 1, scene.width, 1);
  ctx.restore();
}

function level(
  ctx: CanvasRenderingContext2D,
  scene: HeatScene,
  head: HeatHead,
  x: number,
  ink: string,
  fitters: Fitters,
): void {
  const { palette, shape } = scene;
  const quiet = ink === palette.fg ? palette.faint : ink;
  const lines = scene.source.lines ? [head.upper, head.lower] : [head.upper];
  lines.forEach((text, line) => {
    // Where both runs have one token it is written once; the lower line says that it is the same.
    const same = line === 1 && !head.differs;
    const font = `${head.differs || !scene.source.lines ? 600 : 400} 12px ${scene.font}`;
    ctx.font = font;
    ctx.fillStyle = same ? quiet : ink;
    const fitted = fitters(font).fit(same ? "〃" : text, shape.cellWidth - 2 * PAD - 1);
    if (fitted) drawFitted(ctx, fitted, x + PAD, lineAt(line));
  });
  ctx.font = `10px ${scene.font}`;
  ctx.fillStyle = quiet;
  const y = lineAt(lines.length) - 1;
  ctx.fillText(head.note, x + PAD, y);
  if (!head.differs) return;
  const width = ctx.measureText(head.note).width;
  ctx.font = `600 11px ${scene.font}`;
  ctx.fillStyle = ink === palette.fg ? palette.warn : ink;
  ctx.fillText("≠", x + PAD + width + 6, y);
}

function upright(
  ctx: CanvasRenderingContext2D,
  scene: HeatScene,
  column: number,
  x: number,
  ink: string,
  fitters: Fitters,
): void {
  const { shape, palette } = scene;
  const head = scene.source.head(column);
  if (shape.cellWidth < TEXT_FROM && scene.source.lines) {
    if (!head.differs) return;
    ctx.fillStyle = ink === palette.fg ? palette.warn : ink;
    ctx.fillRect(x + 1, shape.headHeight - 5, shape.cellWidth - 3, 3);
    return;
  }
  // Numbers in a row can be counted on; words cannot.
  const room = /^\d+$/.test(head.upper) ? shape.cellWidth - 4 : shape.cellWidth;
  if (!inStep(column, room, scene.source.first) && ink === palette.fg) return;
  const font = `${head.differs ? 600 : 400} 11px ${scene.font}`;
  const text = head.differs ? `${head.upper} ≠${head.lower}` : head.upper;
  const fitted = fitters(font).fit(text, shape.headHeight - 14);
  if (!fitted) return;
  ctx.save();
  ctx.translate(x + shape.cellWidth / 2, shape.headHeight - 7);
  ctx.rotate(-Math.PI / 2);
  ctx.font = font;
  ctx.fillStyle = ink;
  drawFitted(ctx, fitted, 0, 0);
  ctx.restore();
}

export function drawHeatRows(
  ctx: CanvasRenderingContext2D,
  scene: HeatScene,
  rows: Range,
  fitters: Fitters,
): void {
  const { shape, palette, source } = scene;
  const { headWidth, headHeight, rowHeight } = shape;
  const font = `${rowHeight < 16 ? 10.5 : 12}px ${scene.font}`;
  ctx.save();
  ctx.beginPath();
  ctx.rect(0, headHeight, headWidth, scene.height);
  ctx.clip();
  ctx.fillStyle = palette.raised;
  ctx.fillRect(0, headHeight, headWidth, scene.height);
  ctx.font = font;
  for (let row = rows.from; row < rows.to; row++) {
    const y = headHeight + row * rowHeight - scene.scrollTop;
    const { point } = cellAt(shape, row, 0);
    const chosen = point === scene.selected?.point;
    if (chosen) {
      // Of thin rows too the chosen one can be read.
      const height = Math.max(rowHeight - 1, TEXT_FROM);
      ctx.fillStyle = palette.accent;
      ctx.fillRect(0, y + (rowHeight - 1 - height) / 2, headWidth - 1, height);
    }
    if (!chosen && !inStep(point, rowHeight, source.first)) continue;
    ctx.fillStyle = chosen ? palette.onAccent : palette.fg;
    const text = source.rowLabel(point);
    ctx.font = font;
    ctx.fillText(text, headWidth - 10 - fitters(font).width(text), y + rowHeight / 2);
  }
  ctx.fillStyle = palette.strong;
  ctx.fillRect(headWidth - 1, headHeight, 1, scene.height);
  ctx.restore();
}

export function drawHeatCorner(ctx: CanvasRenderingContext2D, scene: HeatScene): void {
  const { shape, palette, source } = scene;
  const { headWidth, headHeight } = shape;
  ctx.fillStyle = palette.raised;
  ctx.fillRect(0, 0, headWidth, headHeight);
  ctx.fillStyle = palette.strong;
  ctx.fillRect(0, headHeight - 1, headWidth, 1);
  ctx.fillRect(headWidth - 1, 0, 1, headHeight);
  ctx.font = `10px ${scene.font}`;
  ctx.fillStyle = palette.faint;
  ctx.textAlign = "right";
  const wide = shape.cellWidth >= UPRIGHT_BELOW;
  const names = wide && source.lines ? source.lines : headHeight > 30 ? [`${source.across} →`] : [];
  names.forEach((name, line) => {
    ctx.fillText(name, headWidth - 8, lineAt(line));
  });
  ctx.fillText(`${source.down} ↑`, headWidth - 8, headHeight - 10);
  ctx.textAlign = "left";
}
