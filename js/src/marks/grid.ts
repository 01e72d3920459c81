import { drawColumnHeads, drawCorner, drawRowHeads } from "./gridheads";
import { drawScores } from "./gridscores";
import type { Scene } from "./gridtypes";
import { type Box, Painter } from "./painter";
import { drawFitted } from "./text";
import { cellAt, placeOf, type Range, totalHeight, totalWidth } from "./windowing";

/** Narrower cells show colour only. */
const TEXT_MIN = 18;
const PAD = 5;

/** Draws the visible part of the table on one canvas, headings included. */
export class GridPainter extends Painter {
  draw(scene: Scene): void {
    const { ctx } = this;
    const { rows, columns } = this.begin(scene);
    this.inCells(scene, () => {
      this.#drawCells(scene, rows, columns);
      this.#drawSettled(scene, rows, columns);
      this.#drawMarks(scene);
    });
    drawColumnHeads(ctx, scene, columns, this.fitter);
    drawRowHeads(ctx, scene, rows, this.fitter);
    drawScores(ctx, scene, scene.shape.transposed ? columns : rows);
    drawCorner(ctx, scene);
  }

  #drawCells(scene: Scene, rows: Range, columns: Range): void {
    const { ctx } = this;
    const { shape, source, scale } = scene;
    const { cellWidth, rowHeight } = shape;
    const gap = this.gap(scene);
    const font = `12px ${scene.font}`;
    const fitter = this.fitter(font);
    const withText = cellWidth >= TEXT_MIN;
    ctx.font = font;
    for (let row = rows.from; row < rows.to; row++) {
      const y = shape.headHeight + row * rowHeight - scene.scrollTop;
      for (let column = columns.from; column < columns.to; column++) {
        const x = shape.headWidth + column * cellWidth - scene.scrollLeft;
        const { point, position } = cellAt(shape, row, column);
        if (!source.arrived(point, position)) {
          ctx.fillStyle = this.pending(scene);
          ctx.fillRect(x, y, cellWidth - gap, rowHeight - gap);
          continue;
        }
        const index = scale.index(source.value(point, position));
        ctx.fillStyle = index < 0 ? scene.palette.raised : (scale.fills[index] as string);
        ctx.fillRect(x, y, cellWidth - gap, rowHeight - gap);
        const doubtful = source.doubtful?.(point) ?? false;
        if (doubtful) {
          ctx.fillStyle = this.#doubt(scene);
          ctx.fillRect(x, y, cellWidth - gap, rowHeight - gap);
        }
        if (!withText) continue;
        const fitted = fitter.fit(source.topText(point, position), cellWidth - gap - 2 * PAD + 2);
        if (!fitted) continue;
        if (ctx.font !== font) ctx.font = font;
        const dim = index < 0 || doubtful;
        ctx.fillStyle = dim ? scene.palette.dim : (scale.inks[index] as string);
        drawFitted(ctx, fitted, x + PAD, y + rowHeight / 2);
      }
    }
  }

  /** What is not to be believed lies behind hatching; its colour shines through. */
  #doubt({ palette, ratio }: Scene): CanvasPattern | string {
    const hatch = { fill: `${palette.bg}cc`, line: palette.strong, falling: true };
    return this.hatched(hatch, ratio) ?? `${palette.bg}cc`;
  }

  /** A stepped line: above it (or right of it) the top token no longer changes. */
  #drawSettled(scene: Scene, rows: Range, columns: Range): void {
    const { ctx } = this;
    const { shape, source } = scene;
    // On a thousand thin columns the line would hide what it is drawn over.
    if (!shape.transposed && shape.cellWidth < 10) return;
    const along = shape.transposed ? rows : columns;
    ctx.beginPath();
    let last = Number.NaN;
    for (let position = along.from; position < along.to; position++) {
      const point = source.settled(position);
      if (point < 0) {
        last = Number.NaN;
        continue;
      }
      const { row, column } = placeOf(shape, { point, position });
      const x = shape.headWidth + column * shape.cellWidth - scene.scrollLeft - 0.5;
      const y = shape.headHeight + row * shape.rowHeight - scene.scrollTop - 0.5;
      if (shape.transposed) {
        if (Number.isNaN(last)) ctx.moveTo(x, y);
        else ctx.lineTo(x, y);
        ctx.lineTo(x, y + shape.rowHeight);
        last = x;
      } else {
        const bottom = y + shape.rowHeight;
        if (Number.isNaN(last)) ctx.moveTo(x, bottom);
        else ctx.lineTo(x, bottom);
        ctx.lineTo(x + shape.cellWidth, bottom);
        last = bottom;
      }
    }
    // A light line under a dark one (or the reverse) can be seen on every colour of the tables.
    ctx.globalAlpha = 0.7;
    ctx.lineWidth = 3.5;
    ctx.strokeStyle = scene.palette.bg;
    ctx.stroke();
    ctx.globalAlpha = 0.85;
    ctx.lineWidth = 1.5;
    ctx.strokeStyle = scene.palette.fg;
    ctx.stroke();
    ctx.globalAlpha = 1;
  }

  #drawMarks(scene: Scene): void {
    const { ctx } = this;
    const { shape, palette } = scene;
    this.#drawPins(scene);
    const chosen = placeOf(shape, scene.selected);
    const band = shape.transposed
      ? this.#columnBox(scene, chosen.column)
      : this.#rowBox(scene, chosen.row);
    ctx.strokeStyle = palette.accent;
    ctx.lineWidth = 1;
    ctx.globalAlpha = 0.7;
    ctx.strokeRect(...band);
    ctx.globalAlpha = 1;
    if (scene.hover) {
      const at = placeOf(shape, scene.hover);
      ctx.strokeStyle = palette.fg;
      ctx.strokeRect(...this.cellBox(scene, at.row, at.column, 0.5));
    }
    const box = this.cellBox(scene, chosen.row, chosen.column, 0);
    ctx.lineWidth = 4;
    ctx.strokeStyle = palette.bg;
    ctx.strokeRect(...box);
    ctx.lineWidth = scene.focused ? 2.5 : 2;
    ctx.strokeStyle = palette.accent;
    ctx.strokeRect(...box);
  }

  #drawPins(scene: Scene): void {
    const { ctx } = this;
    const { shape, source } = scene;
    const height = 3;
    for (const pin of scene.pins) {
      for (let point = 0; point < shape.points; point++) {
        if (source.topId(point, pin.position) !== pin.id) continue;
        const { row, column } = placeOf(shape, { point, position: pin.position });
        const [x, y, w, h] = this.cellBox(scene, row, column, 0);
        ctx.fillStyle = scene.palette.bg;
        ctx.fillRect(x, y + h - height - 1, w, height + 1);
        ctx.fillStyle = pin.color;
        ctx.fillRect(x, y + h - height, w, height);
      }
    }
  }

  #rowBox(scene: Scene, row: number): Box {
    const y = scene.shape.headHeight + row * scene.shape.rowHeight - scene.scrollTop;
    const right = Math.min(scene.width + 4, totalWidth(scene.shape) - scene.scrollLeft);
    return [-2, y - 0.5, right + 1, scene.shape.rowHeight];
  }

  #columnBox(scene: Scene, column: number): Box {
    const x = scene.shape.headWidth + column * scene.shape.cellWidth - scene.scrollLeft;
    const bottom = Math.min(scene.height + 4, totalHeight(scene.shape) - scene.scrollTop);
    return [x - 0.5, -2, scene.shape.cellWidth, bottom + 1];
  }
}
