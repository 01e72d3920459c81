import { type Box, Painter, type Surface } from "./painter";
import { drawFitted } from "./text";
import type { Cell, Range } from "./windowing";
import { placeOf } from "./windowing";

/** What both axes of a square are called; "⋯" for what only continues a character. */
export interface PairNames {
  query(position: number): string;
  key(position: number): string;
}

/** Cells carry keys as points and queries as positions: queries run down, keys across. */
export interface MatrixScene extends Surface {
  /** One pixel a pair; null while it has not come. */
  image: HTMLCanvasElement | null;
  names: PairNames;
  selected: Cell | null;
  hover: Cell | null;
  pinned: { queries: ReadonlySet<number>; keys: ReadonlySet<number> };
  focused: boolean;
}

/** From this size on, lines part the cells. */
const PARTED_FROM = 9;
/** As much room as one label takes. */
const LABEL = 13;
const PAD = 7;

/** A matrix of pairs of tokens: an image stretched over its cells, with the tokens on both axes. */
export class MatrixPainter extends Painter {
  draw(scene: MatrixScene): void {
    const { rows, columns } = this.begin(scene);
    this.inCells(scene, () => {
      this.#drawCells(scene, rows, columns);
      if (scene.selected) this.#drawCross(scene, scene.selected, scene.palette.accent, 2);
      if (scene.hover) this.#drawCross(scene, scene.hover, scene.palette.fg, 1);
    });
    this.#drawKeys(scene, columns);
    this.#drawQueries(scene, rows);
    this.#drawCorner(scene);
  }

  #drawCells(scene: MatrixScene, rows: Range, columns: Range): void {
    const { ctx } = this;
    const { shape, image, palette } = scene;
    const { cellWidth, rowHeight } = shape;
    const [wide, high] = [columns.to - columns.from, rows.to - rows.from];
    if (wide <= 0 || high <= 0) return;
    const [x, y] = this.cellBox(scene, rows.from, columns.from);
    if (!image) {
      ctx.fillStyle = this.pending(scene);
      ctx.fillRect(x, y, wide * cellWidth, high * rowHeight);
      return;
    }
    ctx.imageSmoothingEnabled = false;
    const from = [columns.from, rows.from, wide, high] as const;
    ctx.drawImage(image, ...from, x, y, wide * cellWidth, high * rowHeight);
    if (cellWidth < PARTED_FROM) return;
    ctx.fillStyle = palette.bg;
    for (let i = 1; i <= wide; i++) ctx.fillRect(x + i * cellWidth - 1, y, 1, high * rowHeight);
    for (let i = 1; i <= high; i++) ctx.fillRect(x, y + i * rowHeight - 1, wide * cellWidth, 1);
  }

  /** The row and the column of a cell, and the cell itself. */
  #drawCross(scene: MatrixScene, cell: Cell, color: string, width: number): void {
    const { ctx } = this;
    const { shape } = scene;
    const { row, column } = placeOf(shape, cell);
    const right = shape.points * shape.cellWidth;
    const bottom = shape.positions * shape.rowHeight;
    const [x, y, w, h] = this.cellBox(scene, Math.max(0, row), Math.max(0, column));
    const [left, top] = [shape.headWidth - scene.scrollLeft, shape.headHeight - scene.scrollTop];
    ctx.strokeStyle = color;
    ctx.lineWidth = 1;
    ctx.globalAlpha = 0.6;
    if (row >= 0) ctx.strokeRect(left - 2, y - 0.5, right + 4, h + 1);
    if (column >= 0) ctx.strokeRect(x - 0.5, top - 2, w + 1, bottom + 4);
    ctx.globalAlpha = 1;
    if (row < 0 || column < 0) return;
    const box: Box = [x - 0.5, y - 0.5, w + 1, h + 1];
    ctx.lineWidth = width + 2;
    ctx.strokeStyle = scene.palette.bg;
    ctx.strokeRect(...box);
    ctx.lineWidth = width;
    ctx.strokeStyle = color;
    ctx.strokeRect(...box);
  }

  /** Of thin rows only some have room for a label; the one that is pointed at always has. */
  #labelled(range: Range, size: number, always: readonly number[]): number[] {
    const step = Math.ceil(LABEL / size);
    const kept = always.filter((i) => i >= range.from && i < range.to);
    const out: number[] = [];
    for (let i = Math.ceil(range.from / step) * step; i < range.to; i += step) {
      if (!kept.some((one) => Math.abs(one - i) * size < LABEL)) out.push(i);
    }
    return [...out, ...kept];
  }

  #drawQueries(scene: MatrixScene, rows: Range): void {
    const { ctx } = this;
    const { shape, palette } = scene;
    const { headWidth, headHeight, rowHeight } = shape;
    ctx.save();
    ctx.beginPath();
    ctx.rect(0, headHeight, headWidth, scene.height);
    ctx.clip();
    ctx.fillStyle = palette.raised;
    ctx.fillRect(0, headHeight, headWidth, scene.height);
    const chosen = marked(scene.selected?.position, scene.hover?.position);
    for (const row of this.#labelled(rows, rowHeight, chosen)) {
      const middle = headHeight + (row + 0.5) * rowHeight - scene.scrollTop;
      const ink = this.#mark(scene, row, scene.selected?.position, scene.pinned.queries, [
        0,
        middle - LABEL / 2 - 1,
        headWidth - 1,
        LABEL + 2,
      ]);
      this.#label(scene, scene.names.query(row), row, ink, headWidth, middle);
    }
    ctx.fillStyle = palette.strong;
    ctx.fillRect(headWidth - 1, headHeight, 1, scene.height);
    ctx.restore();
  }

  #drawKeys(scene: MatrixScene, columns: Range): void {
    const { ctx } = this;
    const { shape, palette } = scene;
    const { headWidth, headHeight, cellWidth } = shape;
    ctx.save();
    ctx.beginPath();
    ctx.rect(headWidth, 0, scene.width, headHeight);
    ctx.clip();
    ctx.fillStyle = palette.raised;
    ctx.fillRect(headWidth, 0, scene.width, headHeight);
    const chosen = marked(scene.selected?.point, scene.hover?.point);
    for (const column of this.#labelled(columns, cellWidth, chosen)) {
      const middle = headWidth + (column + 0.5) * cellWidth - scene.scrollLeft;
      ctx.save();
      ctx.translate(middle, headHeight);
      ctx.rotate(-Math.PI / 2);
      const ink = this.#mark(scene, column, scene.selected?.point, scene.pinned.keys, [
        1,
        -LABEL / 2 - 1,
        headHeight,
        LABEL + 2,
      ]);
      this.#label(scene, scene.names.key(column), column, ink, headHeight, 0, true);
      ctx.restore();
    }
    ctx.fillStyle = palette.strong;
    ctx.fillRect(headWidth, headHeight - 1, scene.width, 1);
    ctx.restore();
  }

  /** The ground of a label that is chosen or pinned; returns the ink to write it in. */
  #mark(
    { palette }: MatrixScene,
    at: number,
    chosen: number | undefined,
    pinned: ReadonlySet<number>,
    box: Box,
  ): string {
    if (at !== chosen && !pinned.has(at)) return palette.fg;
    this.ctx.fillStyle = at === chosen ? palette.accent : palette.sunken;
    this.ctx.fillRect(...box);
    return at === chosen ? palette.onAccent : palette.fg;
  }

  /** A token and its position, in a row of some length; upright ones are read from below. */
  #label(
    scene: MatrixScene,
    text: string,
    position: number,
    ink: string,
    length: number,
    y: number,
    upright = false,
  ): void {
    const { ctx } = this;
    const small = `10px ${scene.font}`;
    const number = String(position);
    const wide = this.fitter(small).width(number);
    const font = `11px ${scene.font}`;
    const room = length - wide - 3 * PAD;
    const fitted = this.fitter(font).fit(text, room);
    const full = fitted ? fitted.leadWidth + fitted.bodyWidth : 0;
    ctx.font = font;
    ctx.fillStyle = ink;
    // The token stands beside the cells, its number at the far end.
    if (fitted) drawFitted(ctx, fitted, upright ? PAD : length - PAD - full, y);
    ctx.font = small;
    if (ink === scene.palette.fg) ctx.fillStyle = scene.palette.faint;
    ctx.fillText(number, upright ? length - PAD - wide : PAD, y);
  }

  #drawCorner(scene: MatrixScene): void {
    const { ctx } = this;
    const { shape, palette } = scene;
    ctx.fillStyle = palette.raised;
    ctx.fillRect(0, 0, shape.headWidth, shape.headHeight);
    ctx.fillStyle = palette.strong;
    ctx.fillRect(0, shape.headHeight - 1, shape.headWidth, 1);
    ctx.fillRect(shape.headWidth - 1, 0, 1, shape.headHeight);
    ctx.font = `10px ${scene.font}`;
    ctx.fillStyle = palette.faint;
    const across = "key →";
    ctx.fillText(across, shape.headWidth - PAD - ctx.measureText(across).width, 12);
    ctx.fillText("query ↓", PAD, shape.headHeight - 11);
  }
}

function marked(...places: (number | undefined)[]): number[] {
  const known = places.filter((place): place is number => place !== undefined && place >= 0);
  return [...new Set(known)];
}
