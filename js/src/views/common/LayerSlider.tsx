import { useSignal } from "@preact/signals";
import { useEffect } from "preact/hooks";

/** Milliseconds a layer is shown while playing. */
const PACE = 220;

interface Props {
  /** What is gone through: "Layer". */
  label?: string;
  at: number;
  last: number;
  /** What is at `at`, as it is written and read out. */
  name: string;
  go: (at: number) => void;
}

/** A slider through the layers, or through what else has steps, with a button that plays it. */
export function LayerSlider({ label = "Layer", at, last, name, go }: Props) {
  const many = label === "Layer" ? "the layers" : label;
  const playing = useSignal(false);
  const still = reducedMotion();
  useEffect(() => {
    if (!playing.value) return;
    const timer = setTimeout(() => {
      if (at < last) go(at + 1);
      else playing.value = false;
    }, PACE);
    return () => clearTimeout(timer);
  }, [playing.value, playing, at, last, go]);
  const press = () => {
    if (!playing.value && at >= last) go(0);
    else if (still) go(at + 1);
    if (!still) playing.value = !playing.value;
  };
  return (
    <div class="ll-slider">
      <button
        type="button"
        class="ll-icon ll-play"
        aria-label={still ? `Next: ${label}` : playing.value ? "Pause" : `Play through ${many}`}
        title={
          still ? `Next: ${label} (your system asks for reduced motion)` : `Play through ${many}`
        }
        onClick={press}
      >
        {still ? "⏵" : playing.value ? "⏸" : "▶"}
      </button>
      <input
        type="range"
        min={0}
        max={last}
        step={1}
        value={at}
        aria-label={label}
        aria-valuetext={name}
        onInput={(event) => go(Number(event.currentTarget.value))}
      />
      <output class="ll-num">{name}</output>
    </div>
  );
}

function reducedMotion(): boolean {
  return window.matchMedia?.("(prefers-reduced-motion: reduce)").matches ?? false;
}
