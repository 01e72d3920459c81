import type { Scene } from "./gridtypes";
import { cellAt, type Range } from "./windowing";

/** Pixels that the curves take in the head of the rows, or of the columns. */
export const STRIP = 78;
const PAD = 6;

/**
 * How well each lens does at each row, in line with the rows; a dotted line is a uniform guess.
 * What lies beyond the scale stands at its edge.
 */
export function drawScores(ctx: CanvasRenderingContext2D, scene: Scene, along: Range): void {
  const { scores, shape, palette } = scene;
  if (!scores) return;
  const { transposed, headWidth, headHeight } = shape;
  const size = transposed ? shape.cellWidth : shape.rowHeight;
  const scroll = transposed ? scene.scrollLeft : scene.scrollTop;
  const [head, side] = transposed ? [headWidth, headHeight] : [headHeight, headWidth];
  const start = side - STRIP;
  const across = (value: number) => {
    const share = Math.min(1, value / scores.most) * (STRIP - 2 * PAD);
    // Upright, more lies to the right; transposed, it lies higher.
    return transposed ? start + STRIP - PAD - share : start + PAD + share;
  };
  const middle = (at: number) => head + (at + 0.5) * size - scroll;
  const line = (along: number, over: number, begin: boolean) => {
    const [x, y] = transposed ? [along, over] : [over, along];
    if (begin) ctx.moveTo(x, y);
    else ctx.lineTo(x, y);
  };
  ctx.save();
  ctx.beginPath();
  if (transposed) ctx.rect(head, start, scene.width, STRIP - 1);
  else ctx.rect(start, head, STRIP - 1, scene.height);
  ctx.clip();
  ctx.fillStyle = palette.bg;
  ctx.fillRect(0, 0, scene.width, scene.height);
  ctx.lineWidth = 1;
  ctx.strokeStyle = palette.dim;
  ctx.setLineDash([2, 3]);
  ctx.beginPath();
  for (const guess of scores.uniform) {
    line(0, across(guess), true);
    line(transposed ? scene.width : scene.height, across(guess), false);
  }
  ctx.stroke();
  const [from, to] = [Math.max(0, along.from - 1), along.to + 1];
  for (const { values, color, dash, shown } of scores.lines) {
    ctx.strokeStyle = color;
    ctx.fillStyle = color;
    ctx.lineWidth = shown ? 2.5 : 1.5;
    ctx.setLineDash(dash);
    ctx.beginPath();
    let open = false;
    for (let at = from; at < to; at++) {
      const value = values[cellAt(shape, at, at).point] ?? Number.NaN;
      if (Number.isNaN(value)) {
        open = false;
        continue;
      }
      line(middle(at), across(value), !open);
      open = true;
    }
    ctx.stroke();
    ctx.setLineDash([]);
    for (let at = from; at < to; at++) {
      const value = values[cellAt(shape, at, at).point] ?? Number.NaN;
      if (Number.isNaN(value)) continue;
      const [x, y] = transposed ? [middle(at), across(value)] : [across(value), middle(at)];
      ctx.fillRect(x - 1.5, y - 1.5, 3, 3);
    }
  }
  ctx.restore();
  ctx.fillStyle = palette.strong;
  if (transposed) ctx.fillRect(headWidth, headHeight - 1, scene.width, 1);
  else ctx.fillRect(headWidth - 1, headHeight, 1, scene.height);
}
