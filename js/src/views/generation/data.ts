import type { GenerationMeta } from "../../wire/generation";
import type { RunStore } from "../../wire/store";
import type { TokenInfo } from "../../wire/types";
import { LensData } from "../lens/data";
import { exitPoint, type Scored, type When } from "./exits";

/** One run's numbers, asked by lens point and written token. */
export class GenerationData extends LensData implements Scored {
  override readonly relation = "writing";
  override readonly place = "token";
  override readonly ranked = "written";
  #made: { seq: number; of: object; meta: GenerationMeta } | null = null;

  constructor(readonly whole: RunStore<GenerationMeta>) {
    super(whole);
  }

  /** Tokens are known one after the other; at the end they come with split characters joined. */
  override get meta(): GenerationMeta {
    const { seq, meta } = this.whole;
    if (this.#made?.seq !== seq || this.#made.of !== meta.tokens) {
      const tokens = meta.tokens.length > 0 ? meta.tokens : this.#soFar();
      this.#made = { seq, of: meta.tokens, meta: { ...meta, tokens } };
    }
    return this.#made.meta;
  }

  #soFar(): TokenInfo[] {
    const tokens: TokenInfo[] = [];
    for (let step = 0; step < this.whole.meta.steps; step++) {
      const id = this.targetId(step);
      if (id < 0) break;
      tokens.push({ id, text: this.tokenName(id), cont: false });
    }
    return tokens;
  }

  /** How many tokens there are so far. */
  get written(): number {
    return this.meta.tokens.length;
  }

  /** While it writes, there is room for what is to come. */
  override get positions(): number {
    return this.whole.complete ? this.written : this.whole.meta.steps;
  }

  override targetId(step: number): number {
    const id = this.at("written_id", step);
    return Number.isNaN(id) ? -1 : id;
  }

  override settled(step: number): number {
    const point = this.at("settle_point", step);
    return Number.isNaN(point) ? -1 : point;
  }

  override trajectory(step: number, id: number): (number | null)[] {
    if (id !== this.targetId(step)) return super.trajectory(step, id);
    return this.meta.points.map((_, point) => this.at("written_probability", point, step));
  }

  number(name: string, point: number, step: number): number {
    return this.at(name, point, step);
  }

  exit(when: When, step: number): number {
    return exitPoint(this, when, step);
  }
}
