import type { ColorScale } from "../../theme/scale";

/** The colours of a grid, with their numbers. */
export function Legend({ scale }: { scale: ColorScale }) {
  return (
    <figure class="ll-legend" aria-label={[scale.label, scale.unit].filter(Boolean).join(", ")}>
      <figcaption>
        {scale.label} {scale.unit && <span class="ll-dim">({scale.unit})</span>}
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
