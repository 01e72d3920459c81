import { STRIP } from "./gridscores";
import type { Scene } from "./gridtypes";
import { drawFitted, type TextFitter } from "./text";
import { cellAt, columnCount, type Range } from "./windowing";

/** Where the labels of the rows end, and those of the columns: curves may stand after them. */
function labelEnds({ shape, scores }: Scene): [number, number] {
  const strip = scores ? STRIP : 0;
  return shape.transposed
    ? [shape.headWidth, shape.headHeight - strip]
    : [shape.headWidth - strip, shape.headHeight];
}

type Fitters = (font: string) => TextFitter;

/** Below this width the labels of the columns stand upright. */
export const UPRIGHT_BELOW = 30;

/** Below this one only every tenth or twentieth column has room, for its number. */
const NUMBERS_BELOW = 12;

export function headHeight(cellWidth: number): number {
  if (cellWidth < NUMBERS_BELOW) return 42;
  return cellWidth < UPRIGHT_BELOW ? 78 : 38;
}

export function drawColumnHeads(
  ctx: CanvasRenderingContext2D,
  scene: Scene,
  columns: Range,
  fitters: Fitters,
): void {
  const { shape, palette } = scene;
  ctx.save();
  ctx.beginPath();
  ctx.rect(shape.headWidth, 0, scene.width - shape.headWidth, shape.headHeight);
  ctx.clip();
  ctx.fillStyle = palette.raised;
  ctx.fillRect(shape.headWidth, 0, scene.width, shape.headHeight);
  const chosen = shape.transposed ? scene.selected.point : scene.selected.position;
  for (let column = columns.from; column < columns.to; column++) {
    const x = shape.headWidth + column * shape.cellWidth - scene.scrollLeft;
    if (column === chosen) {
      ctx.fillStyle = palette.accent;
      ctx.fillRect(x, 0, shape.cellWidth - 1, shape.headHeight - 1);
    }
    const ink = column === chosen ? palette.onAccent : palette.fg;
    if (shape.cellWidth < UPRIGHT_BELOW) upright(ctx, scene, column, x, ink, fitters);
    else level(ctx, scene, column, x, ink, fitters);
    if (!shape.transposed) drawPinDots(ctx, scene, column, x);
  }
  drawColumnLines(ctx, scene, columns);
  ctx.fillStyle = palette.strong;
  ctx.fillRect(shape.headWidth, shape.headHeight - 1, scene.width, 1);
  ctx.restore();
}

function columnText(scene: Scene, column: number): string {
  return scene.shape.transposed ? scene.source.pointLabel(column) : scene.source.tokenText(column);
}

function level(
  ctx: CanvasRenderingContext2D,
  scene: Scene,
  column: number,
  x: number,
  ink: string,
  fitters: Fitters,
): void {
  const { shape, palette, source } = scene;
  const font = `600 12px ${scene.font}`;
  // A character split over several tokens is written once, over the columns of all of them.
  let span = 1;
  if (!shape.transposed) {
    while (column + span < columnCount(shape) && source.continues(column + span)) span++;
  }
  const fitted = fitters(font).fit(columnText(scene, column), shape.cellWidth * span - 10);
  ctx.font = font;
  ctx.fillStyle = ink;
  if (fitted) drawFitted(ctx, fitted, x + 5, 14);
  ctx.font = `10px ${scene.font}`;
  ctx.fillStyle = ink === palette.onAccent ? ink : palette.faint;
  const note = shape.transposed ? "" : source.continues(column) ? `⋯ ${column}` : String(column);
  ctx.fillText(note, x + 5, 28);
}

function upright(
  ctx: CanvasRenderingContext2D,
  scene: Scene,
  column: number,
  x: number,
  ink: string,
  fitters: Fitters,
): void {
  const { shape } = scene;
  if (shape.cellWidth < NUMBERS_BELOW) {
    const step = shape.cellWidth < 7 ? 20 : 10;
    if (column % step !== 0) return;
  }
  const font = `11px ${scene.font}`;
  const text = shape.cellWidth < NUMBERS_BELOW ? String(column) : columnText(scene, column);
  const [, end] = labelEnds(scene);
  const fitted = fitters(font).fit(text, end - 14);
  if (!fitted) return;
  ctx.save();
  ctx.translate(x + shape.cellWidth / 2, end - 7);
  ctx.rotate(-Math.PI / 2);
  ctx.font = font;
  ctx.fillStyle = shape.cellWidth < NUMBERS_BELOW ? scene.palette.dim : ink;
  drawFitted(ctx, fitted, 0, 0);
  ctx.restore();
}

/** Lines between columns, left out where one character runs on. */
function drawColumnLines(ctx: CanvasRenderingContext2D, scene: Scene, columns: Range): void {
  const { shape, source, palette } = scene;
  if (shape.cellWidth < NUMBERS_BELOW) return;
  ctx.fillStyle = palette.line;
  for (let column = columns.from; column < columns.to; column++) {
    const joined =
      !shape.transposed && column + 1 < columnCount(shape) && source.continues(column + 1);
    if (joined) continue;
    const x = shape.headWidth + (column + 1) * shape.cellWidth - scene.scrollLeft - 1;
    ctx.fillRect(x, 0, 1, shape.headHeight);
  }
}

function drawPinDots(ctx: CanvasRenderingContext2D, scene: Scene, column: number, x: number): void {
  let right = x + scene.shape.cellWidth - 8;
  for (const pin of scene.pins) {
    if (pin.position !== column || right < x) continue;
    ctx.fillStyle = scene.palette.bg;
    ctx.beginPath();
    ctx.arc(right, scene.shape.headHeight - 9, 4.5, 0, 2 * Math.PI);
    ctx.fill();
    ctx.fillStyle = pin.color;
    ctx.beginPath();
    ctx.arc(right, scene.shape.headHeight - 9, 3.5, 0, 2 * Math.PI);
    ctx.fill();
    right -= 9;
  }
}

export function drawRowHeads(
  ctx: CanvasRenderingContext2D,
  scene: Scene,
  rows: Range,
  fitters: Fitters,
): void {
  const { shape, palette } = scene;
  ctx.save();
  ctx.beginPath();
  ctx.rect(0, shape.headHeight, shape.headWidth, scene.height);
  ctx.clip();
  ctx.fillStyle = palette.raised;
  ctx.fillRect(0, shape.headHeight, shape.headWidth, scene.height);
  for (let row = rows.from; row < rows.to; row++) {
    const y = shape.headHeight + row * shape.rowHeight - scene.scrollTop;
    const cell = cellAt(shape, row, 0);
    const chosen = shape.transposed
      ? cell.position === scene.selected.position
      : cell.point === scene.selected.point;
    if (chosen) {
      ctx.fillStyle = palette.accent;
      ctx.fillRect(0, y, shape.headWidth - 1, shape.rowHeight - 1);
    }
    const ink = chosen ? palette.onAccent : palette.fg;
    if (shape.transposed) tokenLabel(ctx, scene, cell.position, y, ink, fitters);
    else pointLabel(ctx, scene, cell.point, y, ink, fitters);
  }
  ctx.fillStyle = palette.strong;
  ctx.fillRect(shape.headWidth - 1, shape.headHeight, 1, scene.height);
  ctx.restore();
}

/** "12 mid" with the number set to the right so that layers line up. */
function pointLabel(
  ctx: CanvasRenderingContext2D,
  scene: Scene,
  point: number,
  y: number,
  ink: string,
  fitters: Fitters,
): void {
  const { shape, palette, source } = scene;
  const [number, kind] = source.pointLabel(point).split(" ");
  const middle = y + shape.rowHeight / 2;
  const [end] = labelEnds(scene);
  const font = `12px ${scene.font}`;
  const fitter = fitters(font);
  ctx.font = font;
  ctx.fillStyle = ink;
  if (!kind) {
    const text = number ?? "";
    ctx.fillText(text, end - 10 - fitter.width(text), middle);
    return;
  }
  const small = `10.5px ${scene.font}`;
  const kindWidth = Math.max(fitters(small).width("post"), fitters(small).width("mid"));
  const right = end - 10 - kindWidth - 5;
  ctx.font = font;
  ctx.fillText(number ?? "", right - fitter.width(number ?? ""), middle);
  ctx.font = small;
  if (ink !== palette.onAccent) ctx.fillStyle = palette.faint;
  ctx.fillText(kind, right + 5, middle + 0.5);
}

function tokenLabel(
  ctx: CanvasRenderingContext2D,
  scene: Scene,
  position: number,
  y: number,
  ink: string,
  fitters: Fitters,
): void {
  const { shape, palette, source } = scene;
  const middle = y + shape.rowHeight / 2;
  const small = `10px ${scene.font}`;
  const indexText = String(position);
  const indexWidth = fitters(small).width(indexText);
  ctx.font = small;
  ctx.fillStyle = ink === palette.onAccent ? ink : palette.faint;
  ctx.fillText(indexText, shape.headWidth - 8 - indexWidth, middle);
  const font = `600 12px ${scene.font}`;
  const text = source.continues(position) ? "⋯" : source.tokenText(position);
  const fitted = fitters(font).fit(text, shape.headWidth - 52);
  ctx.font = font;
  ctx.fillStyle = ink;
  if (fitted) drawFitted(ctx, fitted, 8, middle);
  let x = shape.headWidth - 14 - indexWidth;
  for (const pin of scene.pins) {
    if (pin.position !== position) continue;
    ctx.fillStyle = pin.color;
    ctx.fillRect(x, y + shape.rowHeight / 2 - 3, 6, 6);
    x -= 8;
  }
}

export function drawCorner(ctx: CanvasRenderingContext2D, scene: Scene): void {
  const { shape, palette } = scene;
  ctx.fillStyle = palette.raised;
  ctx.fillRect(0, 0, shape.headWidth, shape.headHeight);
  ctx.fillStyle = palette.strong;
  ctx.fillRect(0, shape.headHeight - 1, shape.headWidth, 1);
  ctx.fillRect(shape.headWidth - 1, 0, 1, shape.headHeight);
  ctx.font = `10px ${scene.font}`;
  ctx.fillStyle = palette.faint;
  const [across, down] = shape.transposed ? ["layer →", "token ↓"] : ["token →", "layer ↑"];
  const [right, bottom] = labelEnds(scene);
  const width = ctx.measureText(across as string).width;
  ctx.fillText(across as string, shape.headWidth - 8 - width, 12);
  ctx.fillText(down as string, 8, bottom - 11);
  if (scene.scores) {
    const [x, y] = shape.transposed ? [8, bottom + STRIP / 2] : [right + 6, bottom - 11];
    const { lines, most } = scene.scores;
    const beyond = lines.some(({ values }) => values.some((value) => value > most));
    ctx.fillText(`KL 0–${most.toPrecision(2)}${beyond ? "+" : ""}`, x, y);
  }
}
