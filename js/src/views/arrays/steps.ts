import { type ArraysData, layerName } from "./data";

interface Chosen {
  /** The layer that all views look at; -1 for none. */
  layer: number;
  /** The entry that was chosen here; -1 for none. */
  step: number;
}

/** The entry of an axis that a slider is at: of the shared layer, else chosen here, else the `usual`. */
export function stepAt(
  data: ArraysData,
  dim: string,
  { layer, step }: Chosen,
  usual: () => number,
): number {
  const chosen = step >= 0 && step < data.size(dim);
  if (data.role(dim) === "layer" && layer >= 0) {
    // Several entries may be of one layer.
    if (chosen && data.number(dim, step) === layer) return step;
    const index = data.index(dim, layer);
    if (index >= 0) return index;
  }
  return chosen ? step : usual();
}

/** What is chosen when a slider goes to an entry; other views follow to its layer. */
export function goTo(data: ArraysData, dim: string, entry: number): Partial<Chosen> {
  const step = Math.min(data.size(dim) - 1, Math.max(0, entry));
  const layer = data.role(dim) === "layer" ? { layer: data.number(dim, step) } : {};
  return { step, ...layer };
}

/** What an entry is called: "layer 5", "embed", "checkpoint 400". */
export function stepName(data: ArraysData, dim: string, step: number): string {
  if (data.role(dim) !== "layer") return `${data.axisName(dim)} ${data.label(dim, step)}`;
  return layerName(data.number(dim, step));
}
