import { useSignal, useSignalEffect } from "@preact/signals";
import type { FeatureData } from "./data";
import type { FeatureState } from "./state";

const NO_KERNEL = "Another feature needs a running kernel; run the cell of this view.";

/** Which feature: its number, the ones beside it, and what it is of. */
export function Pick({ state, data }: { state: FeatureState; data: FeatureData }) {
  const now = state.number();
  const draft = useSignal(String(now));
  useSignalEffect(() => {
    draft.value = String(state.number());
  });
  const live = state.own.live.value;
  const { site, layers } = data.meta.feature;
  const count = data.one("features");
  const go = (number: number) => {
    state.choose(number);
    draft.value = String(state.number());
  };
  return (
    <fieldset class="ll-feature-pick" aria-label="Which feature">
      <label>
        Feature
        <input
          type="number"
          min={0}
          max={count - 1}
          step={1}
          disabled={!live}
          title={live ? "Enter goes to the page of this number" : NO_KERNEL}
          value={draft.value}
          onInput={(event) => {
            draft.value = event.currentTarget.value;
          }}
          onChange={() => go(Number(draft.peek()))}
        />
      </label>
      <Step
        live={live}
        name="The feature before"
        sign="◀"
        press={() => go(now - 1)}
        off={now <= 0}
      />
      <Step
        live={live}
        name="The next feature"
        sign="▶"
        press={() => go(now + 1)}
        off={now >= count - 1}
      />
      <span class="ll-dim">
        of {Number.isNaN(count) ? "…" : count}, {site} of{" "}
        {layers.length === 1 ? `layer ${layers[0]}` : `${layers.length} layers`}
      </span>
    </fieldset>
  );
}

interface StepProps {
  live: boolean;
  name: string;
  sign: string;
  press: () => void;
  off: boolean;
}

function Step({ live, name, sign, press, off }: StepProps) {
  return (
    <button
      type="button"
      class="ll-icon"
      aria-label={name}
      title={live ? name : NO_KERNEL}
      disabled={!live || off}
      onClick={press}
    >
      {sign}
    </button>
  );
}
