/** A mark as pixels, to be put down many times. */
export interface Stamp {
  /** Red, green, blue and opacity of each, a byte each, row by row. */
  pixels: Uint32Array;
  size: number;
}

export function stampOf(image: HTMLCanvasElement): Stamp {
  const size = image.width;
  const data = image.getContext("2d")?.getImageData(0, 0, size, size).data;
  return { pixels: new Uint32Array(data?.buffer ?? new ArrayBuffer(4 * size * size)), size };
}

/**
 * A transparent sheet on which marks are stamped, and which is laid on a picture as a whole.
 * Thousands of `drawImage` take too long for a glide where a browser draws without a graphics card.
 */
export class Sheet {
  readonly #canvas = document.createElement("canvas");
  readonly #ctx = this.#canvas.getContext("2d");
  #image: ImageData | null = null;
  #pixels = new Uint32Array(0);

  /** An empty sheet. */
  begin(width: number, height: number): void {
    if (!this.#image || this.#image.width !== width || this.#image.height !== height) {
      [this.#canvas.width, this.#canvas.height] = [width, height];
      this.#image = new ImageData(width, height);
      this.#pixels = new Uint32Array(this.#image.data.buffer);
    } else this.#pixels.fill(0);
  }

  /** Put a mark down around a place, in pixels. */
  put({ pixels, size }: Stamp, x: number, y: number): void {
    const { width = 0, height = 0 } = this.#image ?? {};
    const [left, top] = [Math.round(x - size / 2), Math.round(y - size / 2)];
    const [first, last] = [Math.max(0, -left), Math.min(size, width - left)];
    for (let row = Math.max(0, -top); row < Math.min(size, height - top); row++) {
      const to = (top + row) * width + left;
      for (let column = first; column < last; column++) {
        const over = pixels[row * size + column] as number;
        if (over === 0) continue;
        const under = this.#pixels[to + column] as number;
        this.#pixels[to + column] = under === 0 ? over : blended(over, under);
      }
    }
  }

  layOn(ctx: CanvasRenderingContext2D): void {
    if (!this.#image) return;
    this.#ctx?.putImageData(this.#image, 0, 0);
    ctx.drawImage(this.#canvas, 0, 0);
  }
}

/** One pixel over another, both as bytes of red, green, blue and opacity from the lowest up. */
export function blended(over: number, under: number): number {
  const alpha = over >>> 24;
  if (alpha === 255) return over;
  const below = under >>> 24;
  // What an edge adds to an edge: opacities multiply what they let through.
  const whole = below === 255 ? 255 : alpha + below - (((alpha * below + 127) / 255) | 0);
  // Of 256 parts, so that dividing is a shift; red and blue go together, with room between them.
  const part = ((alpha * 256) / whole) | 0;
  const even = Math.imul(over & RED_BLUE, part) + Math.imul(under & RED_BLUE, 256 - part);
  const odd = Math.imul(over & GREEN, part) + Math.imul(under & GREEN, 256 - part);
  return ((whole << 24) | ((even >>> 8) & RED_BLUE) | ((odd >>> 8) & GREEN)) >>> 0;
}

const RED_BLUE = 0xff00ff;
const GREEN = 0x00ff00;
