/** How a cell is hatched. */
export interface Hatch {
  /** Under the lines; may let what is below shine through. */
  fill: string;
  line: string;
  /** Whether the lines fall to the right instead of rising. */
  falling: boolean;
}

const SIZE = 8;

/** A pattern of slanting lines that stays as fine on every screen. */
export function makeHatch(
  target: CanvasRenderingContext2D,
  { fill, line, falling }: Hatch,
  ratio: number,
): CanvasPattern | null {
  const tile = target.canvas.ownerDocument.createElement("canvas");
  tile.width = tile.height = SIZE * ratio;
  const ctx = tile.getContext("2d");
  if (!ctx) return null;
  ctx.scale(ratio, ratio);
  ctx.fillStyle = fill;
  ctx.fillRect(0, 0, SIZE, SIZE);
  ctx.strokeStyle = line;
  ctx.lineWidth = 1;
  for (const shift of [-SIZE, 0, SIZE]) {
    ctx.beginPath();
    ctx.moveTo(shift, falling ? 0 : SIZE);
    ctx.lineTo(shift + SIZE, falling ? SIZE : 0);
    ctx.stroke();
  }
  const pattern = target.createPattern(tile, "repeat");
  pattern?.setTransform(new DOMMatrix().scale(1 / ratio));
  return pattern;
}
