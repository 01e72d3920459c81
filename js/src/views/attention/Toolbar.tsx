import type { ComponentChildren } from "preact";
import type { Compare, Weighting } from "../../wire/attention";
import { percent } from "../common/format";
import { LayerSlider } from "../common/LayerSlider";
import { type Choice, Switch } from "../common/Switch";
import { type AttentionData, placeName, WEIGHTINGS } from "./data";
import type { AttentionState } from "./state";

interface Props {
  state: AttentionState;
  data: AttentionData;
}

/** Which layer, which weights, and how they are drawn. */
export function Toolbar({ state, data }: Props) {
  state.session.version.value;
  const { session } = state;
  const { traits } = session;
  const { layers } = data.first;
  return (
    <>
      <Parts state={state} data={data} />
      <div class="ll-toolbar ll-attention-bar" role="toolbar" aria-label="Attention">
        <LayerSlider
          at={state.layerIndex.value}
          last={layers.length - 1}
          name={`layer ${state.layer.value}`}
          go={(index) => state.goLayer(index)}
        />
        <Group label="Heads">
          <Switch
            label="Heads"
            value={traits.reduce.value}
            choices={REDUCE}
            choose={(reduce) => session.write({ reduce })}
          />
        </Group>
        <Group label="Show">
          <Switch
            label="Show"
            value={traits.mode.value}
            choices={MODES}
            choose={(mode) => session.write({ mode })}
          />
        </Group>
        <Group label="Weighting">
          <Switch
            label="Weighting"
            value={state.weighting.value}
            choices={weightings(state, data)}
            choose={(weighting) => state.weigh(weighting)}
          />
        </Group>
        <button
          type="button"
          aria-pressed={traits.mask_sinks.value}
          title="Leave out the keys that attention falls on for want of anything else (M)"
          onClick={() => session.write({ mask_sinks: !traits.mask_sinks.peek() })}
        >
          Without sinks
        </button>
        <Both state={state} data={data} />
      </div>
      <LeftOut state={state} data={data} />
    </>
  );
}

function Group({ label, children }: { label: string; children: ComponentChildren }) {
  return (
    <span class="ll-group">
      <span class="ll-dim">{label}</span>
      {children}
    </span>
  );
}

const REDUCE = [
  { value: "one", label: "One", title: "The head that is pressed" },
  { value: "mean", label: "Mean", title: "The mean of the heads that are on" },
  {
    value: "max",
    label: "Max",
    title: "For each pair the largest weight of the heads that are on",
  },
] as const;

const MODES = [
  { value: "lines", label: "Lines", title: "A line from each token to those it looks at" },
  { value: "matrix", label: "Matrix", title: "Tokens that look down, tokens looked at across" },
  { value: "both", label: "Both" },
] as const;

/** Those of this run, those a new run would bring, and why others cannot be had. */
function weightings(state: AttentionState, data: AttentionData): Choice<Weighting>[] {
  const { weightings: known, weightings_possible: possible } = data.meta;
  const live = state.session.live.value;
  return (Object.keys(WEIGHTINGS) as Weighting[]).map((value) => {
    const { label, title } = WEIGHTINGS[value];
    if (known.includes(value)) return { value, label, title };
    if (!possible.includes(value)) {
      return { value, label, missing: `${title}. It cannot be computed here.` };
    }
    const how = `ll.attention(model, text, weighting="${value}")`;
    if (!live) return { value, label, missing: `${title}. Not computed here; ${how} does.` };
    return { value, label: `${label} …`, title: `${title}. A press computes it: ${how}` };
  });
}

/** Self, encoder, decoder and cross attention. */
function Parts({ state, data }: Props) {
  const { parts } = data.meta;
  if (parts.length < 2) return null;
  return (
    <Switch
      label="Part of the model"
      value={state.part.value}
      choices={parts.map((part) => ({ value: part, label: part.replaceAll("_", " ") }))}
      choose={(part) => state.session.write({ part })}
    />
  );
}

/** Which of two texts or models. */
function Both({ state, data }: Props) {
  const { other } = data.meta;
  if (!other) return null;
  const choices: Choice<Compare>[] = [
    { value: "first", label: "First", title: `${data.meta.model}: ${state.pictured()}` },
    { value: "second", label: "Second", title: `${other.model}: ${other.text}` },
    { value: "beside", label: "Side by side" },
    {
      value: "difference",
      label: "Difference",
      title: "The second minus the first",
      missing: state.alike() ? undefined : "The two texts have different numbers of tokens.",
    },
  ];
  return (
    <Group label="Compare">
      <Switch
        label="Compare"
        value={state.session.traits.compare.value}
        choices={choices}
        choose={(compare) => state.session.write({ compare })}
      />
    </Group>
  );
}

/** How many keys are named before "and more". */
const NAMED = 6;

/** What "Without sinks" leaves out, and how much of the weight that is. */
function LeftOut({ state, data }: Props) {
  const left = state.left(false);
  if (!left) return null;
  const keys = left.flatMap((out, key) => (out ? [key] : []));
  const names = keys.slice(0, NAMED).map((key) => placeName(data.keys(false), key));
  const more = keys.length > NAMED ? ` and ${keys.length - NAMED} more` : "";
  const mass = state.leftMass();
  const weighed = state.weighting.value === "pattern" && mass !== null;
  return (
    <p class="ll-note" role="status">
      Left out: {keys.length === 1 ? "key" : "keys"} {names.join(", ")}
      {more}
      {weighed && `, which ${keys.length === 1 ? "holds" : "hold"} ${percent(mass)} of the weight`}.
      Colours run to the largest weight that is left; nothing is rescaled to add up to 1.
    </p>
  );
}
