import { plain } from "../../marks/text";
import type { ArrayInfo, MetricsMeta } from "../../wire/metrics";
import { entryName } from "./data";

/** One curve of a panel. */
export interface PanelLine {
  array: ArrayInfo;
  /** Which of the lines of an array with several; null where it has one. */
  k: number | null;
  label: string;
  /** Which colour; the second model has that of the curve it stands beside. */
  color: number;
}

/** Curves that share their axis: never of two units. */
export interface Panel {
  key: string;
  title: string;
  units: string;
  /** What it says, from its first metric. */
  question: string;
  lines: PanelLine[];
}

/** Metrics of a block's parts, by the beginning of their names; each part keeps its colour. */
const PARTS: readonly (readonly [prefix: string, label: string])[] = [
  ["attn_", "attention"],
  ["mlp_", "MLP"],
  ["block_", "block"],
  ["residual_", "residual stream"],
];

interface Name {
  /** What a metric measures, whatever it is measured of. */
  stem: string;
  part: number;
  /** What sets a further output of the metric apart, such as "max". */
  rest: string;
}

function nameOf({ name, metric, other }: ArrayInfo): Name {
  const own = other ? name.replace(/^other\./, "") : name;
  const rest = own.startsWith(`${metric}_`) ? own.slice(metric.length + 1) : "";
  const part = PARTS.findIndex(([prefix]) => metric.startsWith(prefix));
  const stem = part < 0 ? metric : metric.slice(PARTS[part]?.[0].length ?? 0);
  return { stem, part, rest: rest.replaceAll("_", " ") };
}

/** The largest values lie far above the means, so they have an axis to themselves. */
function keyOf(array: ArrayInfo): string {
  const { stem, rest } = nameOf(array);
  const apart = array.kind === "lines" ? array.name.replace(/^other\./, "") : "";
  return [array.units, stem, rest === "max" ? rest : "", apart].join("|");
}

export function drawn({ kind, dtype }: ArrayInfo): boolean {
  return (kind === "curve" || kind === "lines") && dtype === "float";
}

/** The curves of a picture as panels, in the order in which they are first met. */
export function panelsOf(meta: MetricsMeta): Panel[] {
  const panels = new Map<string, Panel>();
  for (const array of meta.arrays) {
    if (!drawn(array)) continue;
    const key = keyOf(array);
    const panel = panels.get(key) ?? begun(key, array, meta);
    panels.set(key, panel);
    panel.lines.push(...linesOf(array, meta, panel));
  }
  const said = new Set<string>();
  for (const panel of panels.values()) {
    // One question is asked once; other panels of its metric say what they show instead.
    if (said.has(panel.question)) panel.question = capital(longName(panel.lines[0]?.array));
    else said.add(panel.question);
  }
  return [...panels.values()];
}

function begun(key: string, array: ArrayInfo, meta: MetricsMeta): Panel {
  const { stem, part, rest } = nameOf(array);
  const metric = stem.replaceAll("_", " ");
  // A metric of several outputs is named, not each of them: what they are stands below.
  const several = meta.arrays.some((other) => other.metric === array.metric && nameOf(other).rest);
  const own = part >= 0 || several ? metric : longName(array);
  const shared = rest ? `${metric}, ${rest}` : own;
  const question = meta.described[array.metric]?.question ?? "";
  return { key, title: capital(shared), units: array.units, question, lines: [] };
}

function longName(array: ArrayInfo | undefined): string {
  return array?.long_name || (array?.name ?? "").replace(/^other\./, "").replaceAll("_", " ");
}

export function capital(text: string): string {
  return text.charAt(0).toUpperCase() + text.slice(1);
}

function linesOf(array: ArrayInfo, meta: MetricsMeta, panel: Panel): PanelLine[] {
  const { part, rest } = nameOf(array);
  if (array.kind === "lines") {
    const dim = array.dims[1] ?? "";
    const axis = meta.axes[dim];
    return (axis?.labels ?? []).map((_, k) => {
      return { array, k, label: entryName(dim, axis, k), color: k };
    });
  }
  const beside = panel.lines.find(
    (line) => array.other && `other.${line.array.name}` === array.name,
  );
  const own = panel.lines.filter((line) => !line.array.other).length;
  const further = part >= 0 && rest !== "" && rest !== "max";
  const wanted = further ? PARTS.length + part : part;
  const free = wanted >= 0 && panel.lines.every(({ color }) => color !== wanted);
  const label = part < 0 ? longName(array) : (PARTS[part]?.[1] ?? "");
  return [
    {
      array,
      k: null,
      label: further ? `${label}, ${rest}` : label,
      color: beside?.color ?? (free ? wanted : own),
    },
  ];
}

/** What a curve is called where its model must be told apart. */
export function fullLabel(line: PanelLine, meta: MetricsMeta): string {
  return line.array.other ? `${line.label} · ${plain(meta.other?.label ?? "other")}` : line.label;
}
