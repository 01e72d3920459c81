import type { ColorMode, LensMeta } from "../../wire/lens";
import type { RunStore } from "../../wire/store";
import { LensData, numberAt } from "./data";

/** Nats from which two distributions differ at all. */
const SOME = 1e-3;
/** Share of the cells that differ whose divergence the colours tell apart. */
const SHARE = 0.9;

/** How far two lenses are apart in one cell. */
export interface Apart {
  /** Of the probability of the first one's top token; NaN where the other has no such token. */
  change: number;
  /** Of the other distribution from the first, nats. */
  kl: number;
}

export function apart(store: RunStore<LensMeta>, point: number, position: number, lens = 0): Apart {
  const at = (name: string) => numberAt(store, name, lens, point, position);
  return { change: at("change"), kl: at("kl_between") };
}

/** One lens of two, coloured by how far the other one is from it. */
export class DifferenceData extends LensData {
  constructor(
    store: RunStore<LensMeta>,
    readonly compare: "change" | "kl",
    /** The one of several lenses that is compared with this one. */
    readonly other = 0,
  ) {
    super(store, "", store.meta.against);
  }

  override value(_mode: ColorMode, _tracked: number, point: number, position: number): number {
    return apart(this.store, point, position, this.other)[this.compare];
  }

  /** Where the colours end: a few cells (a token that differs, by itself) are far above the rest. */
  end(): number {
    const all = this.store.arrays.get("kl_between")?.data ?? [];
    const some = Array.from(all).filter((value) => value > SOME);
    some.sort((a, b) => a - b);
    return some[Math.floor(SHARE * (some.length - 1))] ?? 0;
  }
}
