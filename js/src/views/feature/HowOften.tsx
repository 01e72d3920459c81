import { compact } from "../../marks/numbers";
import { whole } from "../common/format";
import { Part } from "../common/Part";
import type { Bin, FeatureData } from "./data";
import { percent } from "./names";

const WIDTH = 340;
const HEIGHT = 96;
const BELOW = 16;

/** How often the feature is on, and how strongly, beside the same texts shuffled. */
export function HowOften({ data }: { data: FeatureData }) {
  const firings = data.one("firings");
  const shuffled = data.has("shuffled_density");
  const { length: layers } = data.meta.feature.layers;
  const tokens = `${whole(data.one("counted") / layers)} tokens${layers > 1 ? ` in ${layers} layers` : ""}`;
  return (
    <Part class="ll-feature-part" aria-label="How often it is on">
      <h4>How often it is on</h4>
      {firings > 0 ? (
        <>
          <p>
            At <b>{percent(data.one("density"))}</b> of {tokens}
            {shuffled && `; ${percent(data.one("shuffled_density"))} with the texts shuffled`}.{" "}
            {percent(data.one("sparser"))} of the other features are on less often. Its strongest:{" "}
            {compact(data.one("largest"), 3)}.
          </p>
          <Histogram bins={data.bins()} shuffled={shuffled} />
        </>
      ) : (
        <p>It is on at none of {tokens}: give texts of another kind.</p>
      )}
    </Part>
  );
}

function Histogram({ bins, shuffled }: { bins: readonly Bin[]; shuffled: boolean }) {
  const most = Math.max(1e-9, ...bins.flatMap((bin) => [bin.share, bin.shuffled]));
  const wide = WIDTH / Math.max(1, bins.length);
  const y = (share: number) => HEIGHT - (HEIGHT - 4) * (share / most);
  const line = bins
    .map((bin, i) => `${i ? "L" : "M"}${i * wide} ${y(bin.shuffled)}H${(i + 1) * wide}`)
    .join("");
  const end = bins.at(-1)?.to ?? 0;
  const top = bins.reduce((best, bin, i) => (bin.share > (bins[best]?.share ?? 0) ? i : best), 0);
  return (
    <figure class="ll-feature-histogram">
      <svg
        viewBox={`0 0 ${WIDTH} ${HEIGHT + BELOW}`}
        role="img"
        aria-label={`Histogram of its activations from 0 to ${compact(end, 3)}; most often about ${compact(bins[top]?.to ?? 0, 3)}, ${percent(bins[top]?.share ?? 0)} of the times that it is on`}
      >
        {bins.map((bin, i) => (
          <rect
            key={bin.to}
            x={i * wide + 0.5}
            y={y(bin.share)}
            width={Math.max(0.5, wide - 1)}
            height={HEIGHT - y(bin.share)}
          >
            <title>{`up to ${compact(bin.to, 3)}: ${percent(bin.share)}${
              shuffled ? `, shuffled ${percent(bin.shuffled)}` : ""
            }`}</title>
          </rect>
        ))}
        {shuffled && <path d={line} class="ll-feature-shuffled" />}
        <path d={`M0 ${HEIGHT}H${WIDTH}`} class="ll-feature-axis" />
        <text x={0} y={HEIGHT + 12}>
          0
        </text>
        <text x={WIDTH} y={HEIGHT + 12} text-anchor="end">
          {compact(end, 3)}
        </text>
      </svg>
      <figcaption class="ll-dim">
        <span class="ll-feature-key" aria-hidden="true" /> activation, when it is on
        {shuffled && (
          <>
            {" "}
            <span class="ll-feature-key ll-feature-line" aria-hidden="true" /> texts shuffled
          </>
        )}
      </figcaption>
    </figure>
  );
}
