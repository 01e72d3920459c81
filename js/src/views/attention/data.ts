import { tokenName } from "../../marks/text";
import type { AttentionMeta, Role, Tokens, Weighting } from "../../wire/attention";
import type { RunStore } from "../../wire/store";
import type { TokenInfo } from "../../wire/types";

/** One run's tokens, heads and roles. */
export class AttentionData {
  readonly meta: AttentionMeta;

  constructor(readonly store: RunStore<AttentionMeta>) {
    this.meta = store.meta;
  }

  /** The index of a layer; of one that was not computed, the nearest. -1 is the last. */
  layerIndex(layer: number): number {
    const { layers } = this.meta;
    if (layer < 0) return Math.max(0, layers.length - 1);
    let best = 0;
    layers.forEach((other, i) => {
      if (Math.abs(other - layer) < Math.abs((layers[best] ?? 0) - layer)) best = i;
    });
    return best;
  }

  /** The tokens of the first text, or of the other one. */
  text(other: boolean): Tokens {
    return (other && this.meta.other) || this.meta;
  }

  queries(other: boolean): readonly TokenInfo[] {
    return this.text(other).tokens;
  }

  keys(other: boolean): readonly TokenInfo[] {
    return this.text(other).key_tokens ?? this.text(other).tokens;
  }

  /** The keys that attention falls on for want of anything else: the first, and separators. */
  sinks(other: boolean): boolean[] {
    const { special } = this.text(other);
    return this.keys(other).map((_, key) => key === 0 || (special?.[key] ?? false));
  }

  roles(layer: number, head: number): Role[] {
    return this.meta.roles
      .filter((role) => role.layer === layer && role.head === head)
      .sort((a, b) => b.score - a.score);
  }

  /** The numbers of a head that came with the run, by their names. */
  scores(index: number, head: number): [name: string, value: number][] {
    const found: [string, number][] = [];
    for (const [name, array] of this.store.arrays) {
      const value = array.dims.join() === "layer,head" ? array.at(index, head) : Number.NaN;
      if (!Number.isNaN(value)) found.push([name, value]);
    }
    return found;
  }

  /** Heads by the keys and values that they share. */
  groups(): number[][] {
    const groups = new Map<number, number[]>();
    this.meta.kv_groups.forEach((group, head) => {
      groups.set(group, [...(groups.get(group) ?? []), head]);
    });
    return [...groups.values()];
  }

  /** Whether heads share keys and values at all. */
  get shares(): boolean {
    return new Set(this.meta.kv_groups).size < this.meta.n_heads;
  }
}

/** "3 ␣Paris", as a token is called in lists. */
export function placeName(tokens: readonly TokenInfo[], position: number): string {
  return `${position} ${tokenName(tokens[position])}`;
}

/** What a role is called where there is little room. */
export function roleName(role: string): string {
  return role.replace(/_(token|mass)$/, "").replaceAll("_", " ");
}

export const WEIGHTINGS: Readonly<
  Record<Weighting, { label: string; title: string; unit: string }>
> = {
  pattern: { label: "Weights", title: "Attention weights: each row adds up to 1", unit: "weight" },
  value: {
    label: "× value",
    title: "Weight times the length of the value vector it brings",
    unit: "weight × ‖v‖",
  },
  norm: {
    label: "× output",
    title: "Length of what each token really adds to the output: ‖αf(x)‖ (Kobayashi 2020)",
    unit: "‖αf(x)‖",
  },
  scores: {
    label: "Scores",
    title: "Scores before the softmax, as the model has them",
    unit: "score",
  },
};
