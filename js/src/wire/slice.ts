/** The weights of all heads of one layer as they travel: a byte each, scaled by the head's range. */

export interface SliceHeader {
  /** The largest weight of each head. */
  max: number[];
  /** The smallest; absent where weights cannot be below 0. */
  min?: number[];
  shape: [heads: number, queries: number, keys: number];
  /** Whether only the lower triangle travels, row by row. */
  causal: boolean;
  /** Whether byte 0 stands for nothing at all: a pair that is masked has no score. */
  blank?: boolean;
  /** Whether bytes are as the roots of weights: most are far below the largest. */
  root?: boolean;
}

/** A slice inside a snapshot. */
export interface PackedSlice extends SliceHeader {
  /** The bytes, base64. */
  data: string;
}

export class Slice {
  readonly heads: number;
  readonly queries: number;
  readonly keys: number;
  readonly causal: boolean;
  /** Bytes of one head. */
  readonly size: number;

  constructor(
    private readonly header: SliceHeader,
    private readonly bytes: Uint8Array,
  ) {
    [this.heads, this.queries, this.keys] = header.shape;
    this.causal = header.causal;
    this.size = this.causal ? this.start(this.queries) : this.queries * this.keys;
    const whole = this.heads * this.size;
    if (bytes.byteLength !== whole) {
      throw new Error(`A layer's weights have ${bytes.byteLength} bytes; ${whole} were expected.`);
    }
  }

  /** How many keys a query can see; the last query sees all. */
  seen(query: number): number {
    return this.causal ? query + 1 + this.keys - this.queries : this.keys;
  }

  /** Where the row of a query begins in the bytes of a head. */
  start(query: number): number {
    const before = this.causal ? this.keys - this.queries : this.keys;
    return query * before + (this.causal ? (query * (query + 1)) / 2 : 0);
  }

  /** All bytes of one head. */
  head(head: number): Uint8Array {
    return this.bytes.subarray(head * this.size, (head + 1) * this.size);
  }

  /** What each of the 256 bytes stands for in one head; NaN for nothing. */
  numbers(head: number): Float32Array {
    const low = this.header.min?.[head] ?? 0;
    const high = this.header.max[head] ?? 0;
    const first = this.header.blank ? 1 : 0;
    const numbers = Float32Array.from({ length: 256 }, (_, byte) => {
      const part = (byte - first) / (255 - first);
      return low + (this.header.root ? part * part : part) * (high - low);
    });
    if (first) numbers[0] = Number.NaN;
    return numbers;
  }
}

export function unpackSlice({ data, ...header }: PackedSlice): Slice {
  const text = atob(data);
  const bytes = new Uint8Array(text.length);
  for (let i = 0; i < bytes.length; i++) bytes[i] = text.charCodeAt(i);
  return new Slice(header, bytes);
}
