import type { Ends } from "../../marks/numbers";
import type { ColorScale } from "../../theme/scale";

interface Props {
  scale: ColorScale;
  /** The ends of the numbers that are drawn, where some may lie past the colours. */
  values?: Ends | null;
}

/** The colours of a grid, with their numbers. */
export function Legend({ scale, values = null }: Props) {
  const past = values && scale.pastWords(values);
  return (
    <figure class="ll-legend" aria-label={[scale.label, scale.unit].filter(Boolean).join(", ")}>
      <figcaption>
        {scale.label} {scale.unit && <span class="ll-dim">({scale.unit})</span>}
        {past && <span class="ll-dim">; {past}</span>}
      </figcaption>
      <div class="ll-ramp" style={{ background: scale.gradient() }} />
      <div class="ll-ticks">
        {scale.ticks.map((tick) => (
          <span key={tick.label} class="ll-num" style={{ left: `${100 * tick.at}%` }}>
            {tick.label}
          </span>
        ))}
      </div>
    </figure>
  );
}
