import { plain } from "../../marks/text";
import type { ArrayInfo, ArraysMeta } from "../../wire/arrays";
import { alongOf, eachOf, entryName, isDepth } from "./data";

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
  /** The axis that the curves run along; "" for layers, which all charts share. */
  dim: string;
  lines: PanelLine[];
  /** The panel that this one is a part of, whose other curves have charts of their own. */
  whole?: Panel;
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
function keyOf(array: ArrayInfo, meta: ArraysMeta): string {
  const { stem, rest } = nameOf(array);
  const twin = twinOf(array, meta);
  if (twin) return keyOf(twin, meta);
  const apart = eachOf(array, meta) ? array.name.replace(/^other\./, "") : "";
  return [array.units, stem, rest === "max" ? rest : "", apart, ownAxis(array, meta)].join("|");
}

/** The array that this one is the control of: the same where there is nothing to be found. */
function twinOf({ name, metric, units, dims }: ArrayInfo, meta: ArraysMeta): ArrayInfo | undefined {
  const own = name.replace(/^random_|_(chance|shuffled|random|baseline)$/, "");
  // The controls of a metric are its own outputs, and grouped by its name.
  if (own === name || metric !== name) return undefined;
  return meta.arrays.find(
    (other) => other.name === own && other.units === units && other.dims.join() === dims.join(),
  );
}

function ownAxis(array: ArrayInfo, meta: ArraysMeta): string {
  const along = alongOf(array, meta);
  return isDepth(along, meta) ? "" : along;
}

/** Curves as panels, in the order in which they are first met; those `apart` in a chart each. */
export function panelsOf(
  meta: ArraysMeta,
  arrays: readonly ArrayInfo[],
  apart: readonly string[] = [],
): Panel[] {
  const panels = new Map<string, Panel>();
  for (const array of arrays) {
    const key = keyOf(array, meta);
    const panel = panels.get(key) ?? begun(key, array, meta);
    panels.set(key, panel);
    panel.lines.push(...linesOf(array, meta, panel));
  }
  // What the view itself asks stands above it.
  const said = new Set([meta.question]);
  for (const panel of panels.values()) {
    // One question is asked once; other panels of its metric say what they show instead.
    if (said.has(panel.question)) panel.question = capital(longName(panel.lines[0]?.array));
    else said.add(panel.question);
    if (panel.question === panel.title) panel.question = "";
  }
  return [...panels.values()].flatMap((panel) =>
    apart.includes(panel.key) ? eachAlone(panel) : [panel],
  );
}

function eachAlone(whole: Panel): Panel[] {
  return whole.lines.map((line, i) => ({
    ...whole,
    key: `${whole.key}|${i}`,
    title: capital(line.label),
    question: whole.title,
    lines: [line],
    whole,
  }));
}

function begun(key: string, array: ArrayInfo, meta: ArraysMeta): Panel {
  const { stem, part, rest } = nameOf(array);
  const metric = stem.replaceAll("_", " ");
  // A metric of several outputs is named, not each of them: what they are stands below.
  const several = meta.arrays.some((other) => other.metric === array.metric && nameOf(other).rest);
  const own = part >= 0 || several ? metric : longName(array);
  const shared = rest ? `${metric}, ${rest}` : own;
  const question = meta.described[array.metric]?.question ?? "";
  const dim = ownAxis(array, meta);
  return { key, title: capital(shared), units: array.units, question, dim, lines: [] };
}

function longName(array: ArrayInfo | undefined): string {
  return array?.long_name || (array?.name ?? "").replace(/^other\./, "").replaceAll("_", " ");
}

export function capital(text: string): string {
  return text.charAt(0).toUpperCase() + text.slice(1);
}

function linesOf(array: ArrayInfo, meta: ArraysMeta, panel: Panel): PanelLine[] {
  const { part, rest } = nameOf(array);
  const dim = eachOf(array, meta);
  if (dim) {
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
  // A control is not called like what it is the control of.
  const named = part < 0 || twinOf(array, meta);
  const label = named ? longName(array) : (PARTS[part]?.[1] ?? "");
  return [
    {
      array,
      k: null,
      label: further ? `${label}, ${rest}` : label,
      color: beside?.color ?? (free ? wanted : own),
    },
  ];
}

/** The name by which a curve is hidden: its array's, of several with the entry's number. */
export function lineName({ array, k }: PanelLine): string {
  return k === null ? array.name : `${array.name}:${k}`;
}

/** What an array is called where it stands alone; of a second model's, whose it is. */
export function titleOf(array: ArrayInfo, meta: ArraysMeta): string {
  const name = longName(array);
  return array.other ? `${name} · ${plain(meta.other?.label ?? "other")}` : name;
}

/** What a curve is called where its model must be told apart. */
export function fullLabel(line: PanelLine, meta: ArraysMeta): string {
  return line.array.other ? `${line.label} · ${plain(meta.other?.label ?? "other")}` : line.label;
}
