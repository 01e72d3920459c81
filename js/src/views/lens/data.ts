import type { GridSource } from "../../marks/gridtypes";
import type { ColorMode, LensMeta } from "../../wire/lens";
import type { RunStore } from "../../wire/store";

export interface TopToken {
  id: number;
  text: string;
  probability: number;
  /** Place in the list, 1 = best. */
  rank: number;
}

export interface CellNumbers {
  entropy: number;
  kl: number;
  /** Rank of the token that really follows; NaN at the last position. */
  rank: number;
  targetId: number;
}

/** "12_post" as people read it. */
export function pointLabel(label: string): string {
  return label.replace("_", " ");
}

/** A number of one lens; arrays that all lenses share have no axis for them. */
export function numberAt(
  store: RunStore<LensMeta>,
  name: string,
  lens: number,
  ...index: number[]
): number {
  const array = store.arrays.get(name);
  const at = array?.dims[0] === "lens" ? [lens, ...index] : index;
  return array?.at(...at) ?? Number.NaN;
}

/** One run's numbers, asked by lens point and token position. */
export class LensData {
  readonly #meta: LensMeta;
  /** What stands before the token of a column where a cell is named. */
  readonly relation: string = "after";
  readonly place: string = "position";
  readonly ranked: string = "next";
  #settled: { seq: number; values: Int32Array } = { seq: -1, values: new Int32Array(0) };
  #klMax: { seq: number; value: number } = { seq: -1, value: 0 };

  constructor(
    readonly store: RunStore<LensMeta>,
    /** Before the names of its arrays: those of the other lens of two have one. */
    private readonly prefix: "" | "other_" = "",
    /** Which of several lenses. */
    readonly lens = 0,
  ) {
    const { meta } = store;
    const other = prefix ? meta.other : null;
    const words = other?.kind === "text" ? other.tokens : null;
    const tokens = words?.map((text) => ({ id: -1, text, cont: false }));
    this.#meta = tokens ? { ...meta, tokens } : meta;
  }

  get meta(): LensMeta {
    return this.#meta;
  }

  get points(): number {
    return this.meta.points.length;
  }

  get positions(): number {
    return this.meta.tokens.length;
  }

  protected at(name: string, ...index: number[]): number {
    return numberAt(this.store, this.prefix + name, this.lens, ...index);
  }

  /** What this lens is called; "" for the logit lens alone. */
  get name(): string {
    return this.meta.lenses?.[this.lens]?.name ?? "";
  }

  arrived(point: number, position = 0): boolean {
    return !Number.isNaN(this.at("logprob", point, position, 0));
  }

  topId(point: number, position: number, k = 0): number {
    const id = this.at("token_id", point, position, k);
    return Number.isNaN(id) ? -1 : id;
  }

  probability(point: number, position: number, k = 0): number {
    return Math.exp(this.at("logprob", point, position, k));
  }

  tokenName(id: number): string {
    // Another model's token that this one does not have.
    if (id < 0) return "∅";
    return this.store.vocab.get(id) ?? `#${id}`;
  }

  top(point: number, position: number): TopToken[] {
    const out: TopToken[] = [];
    if (!this.arrived(point, position)) return out;
    for (let k = 0; k < this.meta.k; k++) {
      const id = this.topId(point, position, k);
      const probability = this.probability(point, position, k);
      out.push({ id, text: this.tokenName(id), probability, rank: k + 1 });
    }
    return out;
  }

  numbers(point: number, position: number): CellNumbers {
    const rank = this.at("rank", point, position);
    return {
      entropy: this.at("entropy", point, position),
      kl: this.at("kl_to_final", point, position),
      rank: rank > 0 ? rank : Number.NaN,
      targetId: this.targetId(position),
    };
  }

  /** The token that follows in the text; -1 after the last one. */
  targetId(position: number): number {
    const id = this.at("target_id", position);
    return Number.isNaN(id) ? -1 : id;
  }

  trackedIndex(id: number): number {
    return this.meta.tracked.findIndex((token) => token.id === id);
  }

  tracked(point: number, position: number, index: number): number {
    return this.at("tracked_probability", point, position, index);
  }

  value(mode: ColorMode, tracked: number, point: number, position: number): number {
    switch (mode) {
      case "probability":
        return this.probability(point, position);
      case "entropy":
        return this.at("entropy", point, position);
      case "kl":
        return this.at("kl_to_final", point, position);
      case "rank":
        return this.numbers(point, position).rank;
      case "tracked":
        return this.tracked(point, position, tracked);
      case "written":
        return this.at("written_probability", point, position);
      case "margin":
        return this.at("margin", point, position);
    }
  }

  klMax(): number {
    if (this.#klMax.seq !== this.store.seq) {
      let most = 0;
      for (const v of this.store.arrays.get(`${this.prefix}kl_to_final`)?.data ?? [])
        if (v > most) most = v;
      this.#klMax = { seq: this.store.seq, value: Number.isFinite(most) ? most : 1 };
    }
    return this.#klMax.value;
  }

  /** First point from which the top token stays the final one; -1 until all rows have come. */
  settled(position: number): number {
    if (this.#settled.seq !== this.store.seq) {
      this.#settled = { seq: this.store.seq, values: this.#findSettled() };
    }
    return this.#settled.values[position] ?? -1;
  }

  #findSettled(): Int32Array {
    const values = new Int32Array(this.positions).fill(-1);
    for (let point = 0; point < this.points; point++) if (!this.arrived(point)) return values;
    for (let position = 0; position < this.positions; position++) {
      const last = this.points - 1;
      const id = this.topId(last, position);
      let point = last;
      while (point > 0 && this.topId(point - 1, position) === id) point--;
      values[position] = point;
    }
    return values;
  }

  /** Probability of one token at every point as far as it is known here; null elsewhere. */
  trajectory(position: number, id: number): (number | null)[] {
    const index = this.trackedIndex(id);
    return Array.from({ length: this.points }, (_, point) => {
      if (index >= 0) {
        const p = this.tracked(point, position, index);
        if (!Number.isNaN(p)) return p;
      }
      for (let k = 0; k < this.meta.k; k++) {
        if (this.topId(point, position, k) === id) return this.probability(point, position, k);
      }
      return null;
    });
  }

  /** What the canvas asks, for one way of colouring. */
  source(mode: ColorMode, tracked: number): GridSource {
    return {
      arrived: (point, position) => this.arrived(point, position),
      value: (point, position) => this.value(mode, tracked, point, position),
      topId: (point, position) => this.topId(point, position),
      topText: (point, position) => this.tokenName(this.topId(point, position)),
      tokenText: (position) => this.meta.tokens[position]?.text ?? "",
      continues: (position) => this.meta.tokens[position]?.cont ?? false,
      pointLabel: (point) => pointLabel(this.meta.points[point] ?? ""),
      settled: (position) => this.settled(position),
    };
  }
}
