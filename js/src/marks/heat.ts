import { drawHeatColumns, drawHeatCorner, drawHeatRows } from "./heatheads";
import type { HeatScene } from "./heattypes";
import { type Box, Painter } from "./painter";
import type { Cell, Range } from "./windowing";
import { cellAt, placeOf } from "./windowing";

/** Lower or narrower cells show colour only. */
const TEXT_HEIGHT = 14;
const TEXT_WIDTH = 20;

/** A grid of numbers in colours, with the places of a patch drawn over it. */
export class HeatPainter extends Painter {
  draw(scene: HeatScene): void {
    const { rows, columns } = this.begin(scene);
    this.inCells(scene, () => {
      this.#drawCells(scene, rows, columns);
      this.#drawGroups(scene);
      this.#drawRow(scene);
      this.#drawReach(scene, rows, columns);
      this.#drawPlaces(scene);
      this.#drawListed(scene);
    });
    drawHeatColumns(this.ctx, scene, columns, this.fitter);
    drawHeatRows(this.ctx, scene, rows, this.fitter);
    drawHeatCorner(this.ctx, scene);
  }

  #drawCells(scene: HeatScene, rows: Range, columns: Range): void {
    const { ctx } = this;
    const { shape, source, scale, palette } = scene;
    const gap = this.gap(scene);
    const font = `11px ${scene.font}`;
    const fitter = this.fitter(font);
    ctx.font = font;
    ctx.textAlign = "center";
    for (let row = rows.from; row < rows.to; row++) {
      for (let column = columns.from; column < columns.to; column++) {
        const { point, position } = cellAt(shape, row, column);
        const [x, y] = this.cellBox(scene, row, column);
        const value = source.value(point, position);
        const index = scale.index(value);
        const come = source.arrived(point, position);
        const fill = index < 0 ? palette.raised : (scale.fills[index] as string);
        ctx.fillStyle = come ? fill : this.pending(scene);
        ctx.fillRect(x, y, shape.cellWidth - gap, shape.rowHeight - gap);
        if (!come) continue;
        const guessed = source.guessed?.(point, position) ?? false;
        if (guessed) {
          ctx.fillStyle = this.#pale(scene);
          ctx.fillRect(x, y, shape.cellWidth - gap, shape.rowHeight - gap);
        }
        this.#drawPast(scene, value, [x, y, shape.cellWidth - gap, shape.rowHeight - gap]);
        if (shape.rowHeight < TEXT_HEIGHT || shape.cellWidth < TEXT_WIDTH) continue;
        const text = index < 0 ? "–" : `${guessed ? "≈" : ""}${source.text(value)}`;
        if (fitter.width(text) + 4 > shape.cellWidth) continue;
        if (ctx.font !== font) ctx.font = font;
        const quiet = index < 0 || source.quiet(value);
        const ink = guessed ? palette.fg : (scale.inks[index] as string);
        ctx.fillStyle = quiet ? palette.faint : ink;
        ctx.fillText(text, x + (shape.cellWidth - gap) / 2, y + shape.rowHeight / 2);
      }
    }
    ctx.textAlign = "left";
  }

  /** A value past an end of the colours is drawn like the end, with a triangle that says so. */
  #drawPast({ scale, palette }: HeatScene, value: number, [x, y, w, h]: Box): void {
    const way = scale.past(value);
    if (way === 0) return;
    const { ctx } = this;
    const size = Math.min(5, w / 2, h / 2);
    const [tip, base] = way > 0 ? [y + h - size - 1, y + h - 1] : [y + h - 1, y + h - size - 1];
    ctx.fillStyle = scale.inks[scale.index(value)] ?? palette.fg;
    ctx.beginPath();
    ctx.moveTo(x + w - 1 - size / 2, tip);
    ctx.lineTo(x + w - 1, base);
    ctx.lineTo(x + w - 1 - size, base);
    ctx.fill();
  }

  /** An estimate is pale and hatched, so that it cannot be taken for a true number. */
  #pale({ palette, ratio }: HeatScene): CanvasPattern | string {
    const [fill, line] = [`${palette.bg}80`, `${palette.faint}59`];
    return this.hatched({ fill, line, falling: true }, ratio) ?? fill;
  }

  #drawGroups(scene: HeatScene): void {
    const { palette, shape } = scene;
    for (const { first, last } of scene.groups) {
      const top = placeOf(shape, { point: last, position: first });
      const low = placeOf(shape, { point: first, position: last });
      const [x, y] = this.cellBox(scene, top.row, top.column);
      const [right, bottom, w, h] = this.cellBox(scene, low.row, low.column);
      this.#outline([x, y, right + w - x, bottom + h - y], palette.fg, palette.bg, 1.5, []);
    }
  }

  #drawRow(scene: HeatScene): void {
    if (scene.row === null) return;
    const { shape, palette } = scene;
    const { row } = placeOf(shape, { point: scene.row, position: 0 });
    const [x, y, , h] = this.cellBox(scene, row, 0);
    const width = shape.positions * shape.cellWidth - 1;
    this.#outline([x, y, width, h], palette.faint, palette.bg, 1, [4, 3]);
  }

  /** What the change can reach: an outline, and a corner in each cell for those who see no purple. */
  #drawReach(scene: HeatScene, rows: Range, columns: Range): void {
    const { reach } = scene.marks;
    const { shape, palette } = scene;
    if (!reach || reach.fromPoint >= shape.points) return;
    const { ctx } = this;
    const top = placeOf(shape, { point: shape.points - 1, position: reach.fromPosition });
    const low = placeOf(shape, { point: reach.fromPoint, position: shape.positions - 1 });
    const corner = Math.min(6, shape.cellWidth / 3);
    for (let row = Math.max(rows.from, top.row); row < Math.min(rows.to, low.row + 1); row++) {
      for (let c = Math.max(columns.from, top.column); c < columns.to; c++) {
        const [x, y, w] = this.cellBox(scene, row, c);
        // A larger one in the colour of the page under it, to be seen on every colour of the scale.
        for (const [size, fill] of [
          [corner + 2, palette.bg],
          [corner, palette.affected],
        ] as const) {
          ctx.fillStyle = fill;
          ctx.beginPath();
          ctx.moveTo(x + w - size, y);
          ctx.lineTo(x + w, y);
          ctx.lineTo(x + w, y + size);
          ctx.fill();
        }
      }
    }
    const [x, y] = this.cellBox(scene, top.row, top.column);
    const [right, bottom, w, h] = this.cellBox(scene, low.row, low.column);
    this.#outline([x, y, right + w - x, bottom + h - y], palette.affected, palette.bg, 1.5, []);
  }

  #drawListed(scene: HeatScene): void {
    const { ctx } = this;
    const { shape, palette } = scene;
    ctx.font = `600 9px ${scene.font}`;
    ctx.textAlign = "center";
    for (const { cell, label, on } of scene.marks.listed) {
      const { row, column } = placeOf(shape, cell);
      const [x, y] = this.cellBox(scene, row, column);
      ctx.fillStyle = palette.bg;
      ctx.fillRect(x, y, 14, 13);
      ctx.fillStyle = on ? palette.target : palette.faint;
      ctx.fillRect(x, y, 13, 12);
      ctx.fillStyle = palette.bg;
      ctx.fillText(label, x + 6.5, y + 6.5);
    }
    ctx.textAlign = "left";
  }

  #drawPlaces(scene: HeatScene): void {
    const { palette, marks, hover, selected } = scene;
    const box = (cell: Cell, inset = 0): Box => {
      const { row, column } = placeOf(scene.shape, cell);
      return this.cellBox(scene, row, column, inset);
    };
    if (hover) this.#outline(box(hover, 0.5), palette.fg, palette.bg, 1, []);
    const here = marks.target ?? selected;
    if (here) {
      const color = marks.target ? palette.target : palette.accent;
      this.#outline(box(here), color, palette.bg, scene.focused ? 2.5 : 2, []);
    }
    // The source is dashed, and lies inside the target where a value stays in its place.
    const { source } = marks;
    if (!source) return;
    const same = here?.point === source.point && here.position === source.position;
    this.#outline(box(source, same ? 2.5 : 0), palette.source, palette.bg, 2, [4, 3]);
  }

  #outline(box: Box, color: string, under: string, width: number, dash: number[]): void {
    const { ctx } = this;
    ctx.lineWidth = width + 1.5;
    ctx.strokeStyle = under;
    ctx.strokeRect(...box);
    ctx.lineWidth = width;
    ctx.strokeStyle = color;
    ctx.setLineDash(dash);
    ctx.strokeRect(...box);
    ctx.setLineDash([]);
  }
}
