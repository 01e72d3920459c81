import { written } from "../../marks/numbers";
import { plain } from "../../marks/text";
import type { PatchMeta } from "../../wire/patch";
import { percent } from "../common/format";

/** A metric's value in its units; a dash while it is not known. */
export function inUnits(value: number | null | undefined, units: string): string {
  if (value === null || value === undefined || Number.isNaN(value)) return "–";
  if (units === "1" && Math.abs(value) <= 1) return percent(value);
  const text = Number(value.toFixed(Math.abs(value) < 10 ? 3 : 2)).toString();
  const name = units === "1" ? "" : units;
  return `${text.replace("-", "−")} ${name}`.trim();
}

/** Metrics by name; one that is the user's own says itself what it is. */
export const METRIC_NAMES: Readonly<Record<string, string>> = {
  logit_diff: "logit difference",
  logit: "logit",
  probability: "probability",
  logprob: "log-probability",
  kl: "KL divergence",
  rank: "rank",
};

export function shortName({ metric }: PatchMeta): string {
  return METRIC_NAMES[metric.name] ?? (metric.long_name || metric.name);
}

/** "logit difference ␣Paris − ␣Rome". */
export function metricName(meta: PatchMeta): string {
  const { metric, answer, wrong } = meta;
  // A metric of the user's own says itself what it is about.
  if (!Object.hasOwn(METRIC_NAMES, metric.name)) return shortName(meta);
  const about =
    metric.name === "logit_diff" ? [answer, wrong] : metric.name === "kl" ? [] : [answer];
  const tokens = about.filter((token) => token !== null && token !== undefined);
  return `${shortName(meta)} ${tokens.map((token) => plain(token.text)).join(" − ")}`.trim();
}

interface Props {
  meta: PatchMeta;
  value: number;
  recovered: number;
  /** The fraction is an estimate of one that was not measured. */
  guessed?: boolean;
}

/** What a patch brings: the fraction recovered, and the metric between its two ends. */
export function Numbers({ meta, value, recovered, guessed }: Props) {
  const { units, clean, corrupt } = meta.metric;
  return (
    <dl class="ll-numbers">
      <dt>recovered</dt>
      <dd>
        <b>{Number.isNaN(recovered) ? "–" : `${guessed ? "≈" : ""}${written(recovered)}`}</b>
        {guessed && <span class="ll-dim"> estimate</span>}
      </dd>
      <dt title={meta.metric.long_name}>{shortName(meta)}</dt>
      <dd>{inUnits(value, units)}</dd>
      <dt>corrupted → clean</dt>
      <dd>
        {inUnits(corrupt, units === "1" ? units : "")} → {inUnits(clean, units)}
      </dd>
    </dl>
  );
}
