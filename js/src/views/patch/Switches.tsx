import { type Axis, type Direction, HEAD_SITES, METRICS, POSITION_SITES } from "../../wire/patch";
import { Switch } from "../common/Switch";
import { siteName } from "./edits";
import { METRIC_NAMES } from "./Numbers";
import type { PatchState } from "./state";

const NO_KERNEL = "Another sweep needs a running kernel; this page has none.";

const DIRECTIONS: { value: Direction; label: string; title: string }[] = [
  {
    value: "denoise",
    label: "Denoise",
    title: "Values of the clean run are put into the corrupted run: what restores the answer?",
  },
  {
    value: "noise",
    label: "Noise",
    title: "Values of the corrupted run are put into the clean run: what breaks the answer?",
  },
];

/** What is patched, how it is measured, and which way. */
export function Switches({ state }: { state: PatchState }) {
  const { session } = state;
  const { traits } = session;
  const live = session.live.value;
  const metric = traits.metric.value;
  const metrics = (METRICS as readonly string[]).includes(metric) ? METRICS : [...METRICS, metric];
  return (
    <div class="ll-toolbar" role="toolbar" aria-label="Sweep">
      <Sites state={state} by="position" label="Position" sites={POSITION_SITES} />
      <Sites state={state} by="head" label="Head" sites={HEAD_SITES} />
      <select
        aria-label="Metric"
        title={live ? "What is measured at the last position" : NO_KERNEL}
        disabled={!live}
        value={metric}
        onChange={(event) => session.put({ metric: event.currentTarget.value })}
      >
        {metrics.map((name) => (
          <option key={name} value={name}>
            {METRIC_NAMES[name] ?? name}
          </option>
        ))}
      </select>
      <Switch
        state={state}
        label="Direction"
        value={traits.direction.value}
        choices={DIRECTIONS.map((choice) => ({ ...choice, missing: live ? undefined : NO_KERNEL }))}
        choose={(direction) => session.put({ direction })}
      />
    </div>
  );
}

interface SitesProps {
  state: PatchState;
  by: Axis;
  label: string;
  sites: readonly string[];
}

function Sites({ state, by, label, sites }: SitesProps) {
  const { traits, live } = state.session;
  const allowed = state.meta.value?.sites;
  const missing = (site: string) => {
    if (!live.value) return NO_KERNEL;
    if (allowed && !allowed.includes(site)) return `This model has no ${siteName(site)} to patch.`;
    return undefined;
  };
  return (
    <span class="ll-group">
      <span class="ll-dim">{label}</span>
      <Switch
        state={state}
        label={`Site by ${by}`}
        value={traits.by.value === by ? traits.site.value : ""}
        choices={sites.map((site) => ({
          value: site,
          label: siteName(site),
          title: SITE_TITLES[site],
          missing: missing(site),
        }))}
        choose={(site) => state.session.put({ site, by })}
      />
    </span>
  );
}

const SITE_TITLES: Record<string, string> = {
  resid_pre: "The residual stream before a block",
  resid_mid: "The residual stream between a block’s attention and its MLP",
  resid_post: "The residual stream after a block",
  attn_out: "What the attention of a block adds",
  mlp_out: "What the MLP of a block adds",
  z: "The output of each attention head, before the output projection",
  q: "The query of each head, before the rotary embedding",
  k: "The key of each key-value head, before the rotary embedding",
  rot_q: "The query of each head, after the rotary embedding",
  rot_k: "The key of each key-value head, after the rotary embedding",
  v: "The value of each key-value head",
};
