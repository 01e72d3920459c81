import { tokenName } from "../../marks/text";
import type { AttentionMeta, Part, Role, Weighting } from "../../wire/attention";
import type { RunStore } from "../../wire/store";
import type { TokenInfo } from "../../wire/types";

/** One run's tokens, heads and roles, of one part of the model. */
export class AttentionData {
  readonly meta: AttentionMeta;
  /** The first text. */
  readonly first: Part;

  constructor(
    readonly store: RunStore<AttentionMeta>,
    part: string,
  ) {
    this.meta = store.meta;
    this.first = store.meta.by_part?.[part] ?? store.meta;
  }

  /** The first text or the other one. */
  text(other: boolean): Part {
    return (other && this.meta.other) || this.first;
  }

  queries(other: boolean): readonly TokenInfo[] {
    return this.text(other).tokens;
  }

  keys(other: boolean): readonly TokenInfo[] {
    return this.text(other).key_tokens;
  }

  /** The keys that attention falls on for want of anything else: the first, and separators. */
  sinks(other: boolean): boolean[] {
    const { special } = this.text(other);
    return this.keys(other).map((_, key) => key === 0 || (special[key] ?? false));
  }

  roles(layer: number, head: number): Role[] {
    // Roles are looked for in the first part.
    if (this.first !== (this.meta.by_part?.[this.meta.parts[0] ?? ""] ?? this.meta)) return [];
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
    this.first.kv_groups.forEach((group, head) => {
      groups.set(group, [...(groups.get(group) ?? []), head]);
    });
    return [...groups.values()];
  }

  /** What a head is called. */
  headName(head: number): string {
    return this.meta.head_names?.[head] ?? String(head);
  }

  /** Whether heads share keys and values at all. */
  get shares(): boolean {
    return new Set(this.first.kv_groups).size < this.first.n_heads;
  }
}

/** The index of a layer; of one that was not computed, the nearest. -1 is the first. */
export function layerIndex(layers: readonly number[], layer: number): number {
  let best = 0;
  layers.forEach((other, i) => {
    if (Math.abs(other - layer) < Math.abs((layers[best] ?? 0) - layer)) best = i;
  });
  return best;
}

/** "3 ␣Paris", as a token is called in lists. */
export function placeName(tokens: readonly TokenInfo[], position: number): string {
  return `${position} ${tokenName(tokens[position])}`;
}

/** What a role is called where there is little room. */
export function roleName(role: string): string {
  return role.replace(/_(token|mass)$/, "").replaceAll("_", " ");
}

/** How weights are measured: the name of the switch, what it is, and what the numbers are called. */
export const WEIGHTINGS: Readonly<
  Record<Weighting, { label: string; title: string; quantity: string }>
> = {
  pattern: {
    label: "Weights",
    title: "Attention weights: each row adds up to 1",
    quantity: "Weight",
  },
  value: {
    label: "× value",
    title: "Weight times the length of the value vector it brings",
    quantity: "Weight × ‖value‖",
  },
  norm: {
    label: "× output",
    title: "Length of what each token really adds to the output: ‖αf(x)‖ (Kobayashi 2020)",
    quantity: "‖αf(x)‖",
  },
  scores: {
    label: "Scores",
    title: "Scores before the softmax, as the model has them",
    quantity: "Score",
  },
};
