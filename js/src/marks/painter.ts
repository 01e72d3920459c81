import type { Palette } from "../theme/palette";
import { type Hatch, makeHatch } from "./hatch";
import { TextFitter } from "./text";
import { columnCount, type GridShape, type Range, rowCount, visibleRange } from "./windowing";

export type Box = [x: number, y: number, width: number, height: number];

/** What every grid on a canvas knows of the place it is drawn in. */
export interface Surface {
  shape: GridShape;
  palette: Palette;
  scrollLeft: number;
  scrollTop: number;
  width: number;
  height: number;
  ratio: number;
  font: string;
}

/** Narrower columns touch. */
const GAP_FROM = 10;

/** What grids on a canvas share: the size, measured text, the hatching of what has not come. */
export class Painter {
  protected readonly ctx: CanvasRenderingContext2D;
  readonly #fitters = new Map<string, TextFitter>();
  readonly #hatches = new Map<string, CanvasPattern | null>();

  constructor(private readonly canvas: HTMLCanvasElement) {
    // Opaque: the browser can then smooth letters as it does on the page.
    const ctx = canvas.getContext("2d", { alpha: false });
    if (!ctx) throw new Error("This browser gives no 2D canvas.");
    this.ctx = ctx;
  }

  /** An empty canvas of the right size, and the rows and columns to draw on it. */
  protected begin(surface: Surface): { rows: Range; columns: Range } {
    const { ctx } = this;
    const { shape, width, height, ratio, palette } = surface;
    const [wide, high] = [Math.round(width * ratio), Math.round(height * ratio)];
    if (this.canvas.width !== wide) this.canvas.width = wide;
    if (this.canvas.height !== high) this.canvas.height = high;
    ctx.setTransform(ratio, 0, 0, ratio, 0, 0);
    ctx.textBaseline = "middle";
    ctx.direction = "ltr";
    ctx.fillStyle = palette.bg;
    ctx.fillRect(0, 0, width, height);
    const { headHeight, headWidth, rowHeight, cellWidth } = shape;
    const { scrollTop, scrollLeft } = surface;
    return {
      rows: visibleRange(scrollTop, height, headHeight, rowHeight, rowCount(shape)),
      columns: visibleRange(scrollLeft, width, headWidth, cellWidth, columnCount(shape)),
    };
  }

  /** Draw with everything outside the cells left as it is. */
  protected inCells({ shape, width, height }: Surface, draw: () => void): void {
    const { ctx } = this;
    ctx.save();
    ctx.beginPath();
    ctx.rect(shape.headWidth, shape.headHeight, width, height);
    ctx.clip();
    draw();
    ctx.restore();
  }

  protected readonly fitter = (font: string): TextFitter => {
    let fitter = this.#fitters.get(font);
    if (!fitter) {
      const { ctx } = this;
      fitter = new TextFitter((text) => {
        if (ctx.font !== font) ctx.font = font;
        return ctx.measureText(text).width;
      });
      this.#fitters.set(font, fitter);
    }
    return fitter;
  };

  protected gap({ shape }: Surface): number {
    return shape.cellWidth >= GAP_FROM ? 1 : 0;
  }

  protected cellBox(surface: Surface, row: number, column: number, inset = 0): Box {
    const { shape } = surface;
    const x = shape.headWidth + column * shape.cellWidth - surface.scrollLeft;
    const y = shape.headHeight + row * shape.rowHeight - surface.scrollTop;
    return [x + inset, y + inset, shape.cellWidth - 1 - 2 * inset, shape.rowHeight - 1 - 2 * inset];
  }

  /** What has not come is hatched, so that it cannot be taken for a low number. */
  protected pending({ palette, ratio }: Surface): CanvasPattern | string {
    const hatch = { fill: palette.raised, line: palette.line, falling: false };
    return this.hatched(hatch, ratio) ?? palette.sunken;
  }

  /** A pattern, made once for each look. */
  protected hatched(hatch: Hatch, ratio: number): CanvasPattern | null {
    const key = `${JSON.stringify(hatch)}${ratio}`;
    let pattern = this.#hatches.get(key);
    if (pattern === undefined) {
      pattern = makeHatch(this.ctx, hatch, ratio);
      this.#hatches.set(key, pattern);
    }
    return pattern;
  }
}
