import { compact } from "../../marks/numbers";

/** A share in per cent, in a few characters. */
export function percent(share: number): string {
  return Number.isNaN(share) ? "–" : `${compact(100 * share, 2)} %`;
}
