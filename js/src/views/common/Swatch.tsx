import type { LineStyle } from "../../theme/palette";

/** A piece of a line, as it is drawn in the chart. */
export function Swatch({ style }: { style: LineStyle }) {
  return (
    <svg width="26" height="10" aria-hidden="true">
      <line
        x1="1"
        x2="25"
        y1="5"
        y2="5"
        stroke={style.color}
        stroke-width="2.5"
        stroke-dasharray={style.dash.join(" ")}
      />
    </svg>
  );
}
