import type { FeatureMeta } from "../../wire/feature";
import { ArraysData } from "../arrays/data";

/** A token of an example, and how strongly the feature is on there, from 0 to 1. */
export interface Mark {
  id: number;
  text: string;
  mark: number;
  /** Whether it is the token that the example is of. */
  own: boolean;
}

export interface Band {
  from: number;
  to: number;
  count: number;
  examples: number[];
}

export interface Bin {
  to: number;
  /** Share of the feature's activations, of the texts and of the texts shuffled. */
  share: number;
  shuffled: number;
}

/** A token that the feature raises or lowers. */
export interface Effect {
  token: string;
  score: number;
  random: number;
}

/** What was written with so much of the feature, and of another one. */
export interface Steered {
  text: string;
  other: string;
  kl: number;
  otherKl: number;
}

/** One feature's page, asked by what stands on it. */
export class FeatureData extends ArraysData<FeatureMeta> {
  /** A number that the page has one of. */
  one(name: string): number {
    return this.at(name);
  }

  has(name: string): boolean {
    return this.array(name) !== undefined;
  }

  /** The examples of a group that there are. */
  examples(group: number): number[] {
    const { groups } = this.meta.feature;
    return groups.flatMap((of, i) => (of === group && this.at("activation", i) > 0 ? [i] : []));
  }

  /** The tokens of an example; those that did not count are marked with 0. */
  context(example: number): Mark[] {
    const size = this.size("offset");
    const largest = this.one("largest") || 1;
    const found: Mark[] = [];
    for (let k = 0; k < size; k++) {
      const id = this.at("context_token", example, k);
      if (Number.isNaN(id)) continue;
      const mark = this.at("context_activation", example, k) / largest;
      const own = k === (size - 1) / 2;
      found.push({ id, text: this.tokenName(id), mark: Number.isNaN(mark) ? 0 : mark, own });
    }
    return found;
  }

  /** The strongest first. */
  bands(): Band[] {
    return Array.from({ length: this.size("band") }, (_, i) => ({
      from: this.at("band_from", i),
      to: this.at("band_to", i),
      count: this.at("band_count", i),
      examples: this.examples(i + 1),
    }));
  }

  /** The bins up to the last that holds anything. */
  bins(): Bin[] {
    const size = this.size("bin");
    const counts = Array.from({ length: size }, (_, i) => this.at("count", i) || 0);
    const others = Array.from({ length: size }, (_, i) => this.at("shuffled_count", i) || 0);
    const last = Math.max(
      counts.findLastIndex((count) => count > 0),
      others.findLastIndex((count) => count > 0),
    );
    const [whole, all] = [counts, others].map((each) => each.reduce((a, b) => a + b, 0) || 1);
    return counts.slice(0, last + 1).map((count, i) => ({
      to: this.at("bin_top", i),
      share: count / (whole as number),
      shuffled: (others[i] as number) / (all as number),
    }));
  }

  /** What it raises (side 0) or lowers (side 1), the most first. */
  effects(side: number): Effect[] {
    return Array.from({ length: this.size("order") }, (_, k) => ({
      token: this.tokenName(this.at("effect_token", side, k)),
      score: this.at("effect_score", side, k),
      random: this.at("random_effect_score", side, k),
    }));
  }

  /** Numbers of the nearest features. */
  near(): { number: number; cosine: number; random: number; token: string }[] {
    return Array.from({ length: this.size("near") }, (_, k) => ({
      number: this.at("neighbour", k),
      cosine: this.at("neighbour_cosine", k),
      random: this.at("random_cosine", k),
      token: this.has("neighbour_token") ? this.tokenName(this.at("neighbour_token", k)) : "",
    })).filter(({ number }) => !Number.isNaN(number));
  }

  /** The text that is gone on from. */
  prompt(): string {
    return this.#words("prompt_token", []);
  }

  /** What the model writes by itself. */
  own(): string {
    return this.#words("own_token", []);
  }

  /** What was written at a strength; null where that was not tried. */
  steered(strength: number): Steered | null {
    if (strength === 0) return { text: this.own(), other: this.own(), kl: 0, otherKl: 0 };
    const at = this.meta.feature.strengths.indexOf(strength);
    if (at < 0 || Number.isNaN(this.at("steer_kl", at))) return null;
    return {
      text: this.#words("steered_token", [at]),
      other: this.#words("other_steered_token", [at]),
      kl: this.at("steer_kl", at),
      otherKl: this.at("other_steer_kl", at),
    };
  }

  /** Whether the page has come to the text that is steered. */
  get steers(): boolean {
    return this.one("steered_layer") >= 0;
  }

  #words(name: string, index: number[]): string {
    const dim = name === "prompt_token" ? "prompt_position" : "step";
    let text = "";
    for (let k = 0; k < this.size(dim); k++) {
      const id = this.at(name, ...index, k);
      if (!Number.isNaN(id)) text += this.tokenName(id);
    }
    return text;
  }
}
