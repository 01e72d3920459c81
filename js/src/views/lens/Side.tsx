import { useSignal } from "@preact/signals";
import { useEffect } from "preact/hooks";
import { pointLabel } from "./data";
import type { ViewState } from "./state";
import { Numbers, TopList, Where } from "./TopList";

/** Milliseconds a row is shown while playing. */
const PACE = 220;

/** The layer slider and, under it, the next-token distribution at that row. */
export function Side({ state }: { state: ViewState }) {
  const data = state.data.value;
  state.session.version.value;
  if (!data) return null;
  const cell = state.selected.value;
  return (
    <section class="ll-side" aria-label="Next-token distribution by layer">
      <LayerSlider state={state} />
      <Where data={data} cell={cell} />
      <TopList state={state} data={data} cell={cell} pinnable ids={false} />
      <Numbers data={data} cell={cell} />
    </section>
  );
}

function LayerSlider({ state }: { state: ViewState }) {
  const playing = useSignal(false);
  const still = reducedMotion();
  useEffect(() => {
    if (!playing.value) return;
    const timer = setInterval(() => {
      if (!advance(state)) playing.value = false;
    }, PACE);
    return () => clearInterval(timer);
  }, [playing.value, playing, state]);
  const data = state.data.value;
  if (!data) return null;
  const { point, position } = state.selected.value;
  const last = data.points - 1;
  const label = pointLabel(data.meta.points[point] ?? "");
  const press = () => {
    const at = state.selected.peek();
    if (!playing.value && at.point >= last) state.select({ ...at, point: 0 });
    else if (still) advance(state);
    if (!still) playing.value = !playing.value;
  };
  return (
    <div class="ll-slider">
      <button
        type="button"
        class="ll-icon ll-play"
        aria-label={still ? "Next row" : playing.value ? "Pause" : "Play through the layers"}
        title={still ? "Next row (your system asks for reduced motion)" : "Play through the layers"}
        onClick={press}
      >
        {still ? "⏵" : playing.value ? "⏸" : "▶"}
      </button>
      <input
        type="range"
        min={0}
        max={last}
        step={1}
        value={point}
        aria-label="Layer"
        aria-valuetext={label}
        onInput={(event) => state.select({ point: Number(event.currentTarget.value), position })}
      />
      <output class="ll-num">{label}</output>
    </div>
  );
}

function advance(state: ViewState): boolean {
  const data = state.data.peek();
  const { point, position } = state.selected.peek();
  if (!data || point >= data.points - 1) return false;
  state.select({ point: point + 1, position });
  return true;
}

function reducedMotion(): boolean {
  return window.matchMedia?.("(prefers-reduced-motion: reduce)").matches ?? false;
}
