import { written } from "../../marks/heat";
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

/** "logit difference ␣Paris − ␣Rome". */
export function metricName({ metric, answer, wrong }: PatchMeta): string {
  const names = [answer, wrong].filter((token) => token !== null && token !== undefined);
  const tokens = metric.name === "kl" ? "" : names.map((token) => plain(token.text)).join(" − ");
  return `${metric.long_name || metric.name} ${tokens}`.trim();
}

interface Props {
  meta: PatchMeta;
  value: number;
  recovered: number;
}

/** What a patch brings: the fraction recovered, and the metric between its two ends. */
export function Numbers({ meta, value, recovered }: Props) {
  const { units, clean, corrupt } = meta.metric;
  return (
    <dl class="ll-numbers">
      <dt>recovered</dt>
      <dd>
        <b>{Number.isNaN(recovered) ? "–" : written(recovered)}</b>
      </dd>
      <dt title={metricName(meta)}>{meta.metric.long_name || meta.metric.name}</dt>
      <dd>{inUnits(value, units)}</dd>
      <dt>corrupted → clean</dt>
      <dd>
        {inUnits(corrupt, units === "1" ? units : "")} → {inUnits(clean, units)}
      </dd>
    </dl>
  );
}
