import type { ColorMode, Compare, LensMeta } from "../../wire/lens";
import type { RunStore } from "../../wire/store";
import { LensData } from "./data";

/** How far two lenses are apart in one cell. */
export interface Apart {
  /** Of the probability of the first one's top token; NaN where the other has no such token. */
  change: number;
  /** Of the other distribution from the first, nats. */
  kl: number;
}

export function apart(store: RunStore<LensMeta>, point: number, position: number): Apart {
  const at = (name: string) => store.arrays.get(name)?.at(point, position) ?? Number.NaN;
  return { change: at("change"), kl: at("kl_between") };
}

/** The first lens of two, coloured by how far the other one is from it. */
export class DifferenceData extends LensData {
  constructor(
    store: RunStore<LensMeta>,
    readonly compare: Exclude<Compare, "beside">,
  ) {
    super(store);
  }

  override value(_mode: ColorMode, _tracked: number, point: number, position: number): number {
    return apart(this.store, point, position)[this.compare];
  }

  largest(): number {
    let most = 0;
    for (const v of this.store.arrays.get("kl_between")?.data ?? []) if (v > most) most = v;
    return most;
  }
}
