import type { Rgb } from "../theme/colors";
import type { ColorScale } from "../theme/scale";

/** Numbers of pairs of tokens: queries down, keys across. */
export interface Square {
  readonly queries: number;
  readonly keys: number;
  /** Row by row; NaN where a query cannot look or a key is left out. */
  readonly values: Float32Array;
  readonly low: number;
  readonly high: number;
  /** Whether there are numbers below 0. */
  readonly signed: boolean;
  /** The values as bytes, and the number that each byte stands for, where they came so. */
  readonly coded?: { readonly bytes: Uint8Array; readonly numbers: ArrayLike<number> };
}

/** One pixel a pair, as an image has them; `none` is the colour where there is no number. */
export function pixelsOf(
  square: Square,
  scale: ColorScale,
  none: Rgb,
): Uint8ClampedArray<ArrayBuffer> {
  const { values, coded } = square;
  const pixels = new Uint32Array(values.length);
  const table = Uint32Array.from(scale.colors, packed);
  const blank = packed(none);
  const pixelOf = (value: number) => table[scale.index(value)] ?? blank;
  // As many colours as bytes, not as many as pairs.
  const colors = coded && Uint32Array.from(coded.numbers, pixelOf);
  for (let i = 0; i < values.length; i++) {
    const value = values[i] as number;
    if (Number.isNaN(value)) pixels[i] = blank;
    else pixels[i] = colors ? (colors[coded.bytes[i] as number] as number) : pixelOf(value);
  }
  return new Uint8ClampedArray(pixels.buffer);
}

/** An opaque colour as a little-endian pixel. */
export function packed([r, g, b]: Rgb): number {
  return ((255 << 24) | (b << 16) | (g << 8) | r) >>> 0;
}

/** The images of squares, each made once for a scale; they go when the square goes. */
export class Images {
  readonly #made = new WeakMap<Square, { scale: string; image: HTMLCanvasElement }>();

  of(square: Square, scale: ColorScale, none: Rgb): HTMLCanvasElement {
    const key = `${scale.place(0)} ${scale.place(1)} ${scale.fills[255]} ${none}`;
    const known = this.#made.get(square);
    if (known?.scale === key) return known.image;
    const image = known?.image ?? document.createElement("canvas");
    image.width = square.keys;
    image.height = square.queries;
    const data = new ImageData(pixelsOf(square, scale, none), square.keys, square.queries);
    image.getContext("2d")?.putImageData(data, 0, 0);
    this.#made.set(square, { scale: key, image });
    return image;
  }
}
