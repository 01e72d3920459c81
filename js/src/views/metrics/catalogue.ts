import type { CatalogueEntry } from "../../wire/metrics";

/** Metrics that have every word of the query somewhere in what is said of them. */
export function found(catalogue: readonly CatalogueEntry[], query: string): CatalogueEntry[] {
  const words = query.toLowerCase().split(/\s+/).filter(Boolean);
  return catalogue.filter((entry) => {
    const { name, long_name, question, family, source, units } = entry;
    const text = [name, name.replaceAll("_", " "), long_name, question, family, source, units];
    const all = text.join("\n").toLowerCase();
    return words.every((word) => all.includes(word));
  });
}

/** The list with a metric more or less; the last one stays, for an empty list is the default set. */
export function toggled(metrics: readonly string[], name: string): string[] {
  if (!metrics.includes(name)) return [...metrics, name];
  return metrics.length > 1 ? metrics.filter((other) => other !== name) : [...metrics];
}

/** "layer", "layer × head", "state × state": what there is one number for. */
export function axesName(axes: readonly string[]): string {
  if (axes.length === 0) return "one number";
  const names = axes.map((axis) => {
    const own = axis.replace(/_other$/, "");
    return own === "point" ? "state" : own.replaceAll("_", " ");
  });
  return names.length === 1 ? `by ${names[0]}` : names.join(" × ");
}
