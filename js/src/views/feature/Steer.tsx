import { useSignalEffect } from "@preact/signals";
import { compact } from "../../marks/numbers";
import { TokenText } from "../../marks/TokenText";
import { CopyCode } from "../common/Copy";
import { Part } from "../common/Part";
import type { FeatureData } from "./data";
import type { FeatureState } from "./state";

/** How long the slider rests before a text is asked for, in milliseconds. */
const REST = 250;
const STEP = 0.25;
const MOST = 4;

interface Props {
  state: FeatureState;
  data: FeatureData;
}

/** A slider that adds the feature, and the texts with it, without it, and with another one. */
export function Steer({ state, data }: Props) {
  useSignalEffect(() => {
    state.own.traits.strength.value;
    state.page.value;
    const timer = setTimeout(() => state.steer(), REST);
    return () => clearTimeout(timer);
  });
  if (!data.steers) return null;
  const { code } = state.text.value.state === "known" ? state.text.value : { code: "" };
  return (
    <Part class="ll-feature-part" aria-label="Steer with it">
      <h4>Steer with it</h4>
      <div class="ll-feature-slide">
        <Slider state={state} data={data} />
        {code && (
          <CopyCode
            code={code}
            setup={state.meta.value?.setup ?? ""}
            label="Copy this text as Python"
            missing=""
          />
        )}
      </div>
      <Written state={state} data={data} />
    </Part>
  );
}

/** Live any strength; in a page without a kernel those that were tried. */
function Slider({ state, data }: Props) {
  const live = state.own.live.value;
  const strength = state.own.traits.strength.value;
  const tried = [...data.meta.feature.strengths, 0].sort((a, b) => a - b);
  const at = tried.indexOf(strength);
  const write = (value: number) => state.own.write({ strength: value }, "soon");
  const name = `strength ${compact(strength, 3)}`;
  const said = "Strength, in units of what it writes at its strongest example";
  return (
    <label title={said}>
      Strength
      {live ? (
        <input
          type="range"
          min={-MOST / 2}
          max={MOST}
          step={STEP}
          value={strength}
          aria-label={said}
          aria-valuetext={name}
          onInput={(event) => write(Number(event.currentTarget.value))}
        />
      ) : (
        <input
          type="range"
          min={0}
          max={tried.length - 1}
          step={1}
          value={Math.max(0, at)}
          aria-label={`${said}; those that were tried`}
          aria-valuetext={name}
          onInput={(event) => write(tried[Number(event.currentTarget.value)] ?? 0)}
        />
      )}
      <output class="ll-num">{compact(strength, 3)}</output>
      {!live && <span class="ll-dim">{tried.length} were tried; others need a kernel</span>}
    </label>
  );
}

function Written({ state, data }: Props) {
  const text = state.text.value;
  const other = data.one("other_feature");
  const known = text.state === "known" ? text.steered : null;
  return (
    <dl class="ll-feature-written">
      <dt>The model goes on from</dt>
      <dd dir="auto" class="ll-dim">
        <TokenText text={data.prompt()} />
      </dd>
      <dt>by itself</dt>
      <dd dir="auto">
        <TokenText text={data.own()} />
      </dd>
      <dt>
        with feature {data.meta.feature.number}
        <Moved nats={known?.kl ?? Number.NaN} />
      </dt>
      <dd dir="auto" aria-live="polite">
        {known && <TokenText text={known.text} />}
        {text.state === "asked" && <span class="ll-dim">The model is writing…</span>}
        {text.state === "unknown" && <span class="ll-dim">Nothing is written yet.</span>}
        {text.state === "failed" && <span class="ll-error">{text.problem}</span>}
      </dd>
      {other >= 0 && (
        <>
          <dt title="It is on about as often, and as much of it is added">
            with feature {other} instead
            <Moved nats={known?.otherKl ?? Number.NaN} />
          </dt>
          <dd dir="auto">{known && <TokenText text={known.other} />}</dd>
        </>
      )}
    </dl>
  );
}

function Moved({ nats }: { nats: number }) {
  if (Number.isNaN(nats)) return null;
  return (
    <span class="ll-dim ll-num" title="KL divergence of the first token from the model’s own">
      {" "}
      ({compact(nats, 2)} nats)
    </span>
  );
}
