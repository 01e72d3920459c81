import { plain } from "../../marks/text";
import type { FedPicture } from "../../wire/lens";
import { percent } from "../common/format";
import { pointLabel } from "./data";
import type { ViewState } from "./state";

/** Where a position lies in what was fed, as shares of its width and height. */
type Box = { x: number; y: number; width: number; height: number };

/** The picture or sound that was fed, and over it what its positions answer at the chosen depth. */
export function Seen({ state, picture }: { state: ViewState; picture: FedPicture }) {
  const data = state.data.value;
  if (!data) return null;
  state.session.version.value;
  const { point, position } = state.selected.value;
  const count = data.positions;
  const boxes = Array.from({ length: count }, (_, index) => boxOf(picture, index, count));
  const choose = (position: number) => state.select({ point, position });
  const label = pointLabel(data.meta.points[point] ?? "");
  const { color, tracked } = state.session.traits;
  const scale = state.scale.value;
  const fill = (index: number) => {
    const value = data.value(color.value, tracked.value, point, index);
    return scale.fills[scale.index(value)] ?? "transparent";
  };
  return (
    <div class={picture.kind === "audio" ? "ll-seen ll-sound" : "ll-seen"}>
      <figure>
        <svg
          viewBox="0 0 1 1"
          preserveAspectRatio="none"
          role="img"
          aria-label={`What was fed; chosen: ${plain(data.meta.tokens[position]?.text ?? "")}`}
        >
          {picture.kind === "images" ? (
            <image href={picture.source} width="1" height="1" preserveAspectRatio="none" />
          ) : (
            <Wave wave={picture.wave} />
          )}
          <Cells boxes={boxes} chosen={position} choose={choose} />
        </svg>
        <figcaption>as it was fed</figcaption>
      </figure>
      <figure>
        <svg
          viewBox="0 0 1 1"
          preserveAspectRatio="none"
          role="img"
          aria-label={`Colours of the table at ${label}, each position where it lies`}
        >
          <Cells
            boxes={boxes}
            chosen={position}
            choose={choose}
            fill={fill}
            title={(index) => {
              if (!data.arrived(point, index)) return "not computed yet";
              const top = plain(data.tokenName(data.topId(point, index)));
              return `${plain(data.meta.tokens[index]?.text ?? "")}: ${top}, ${percent(data.probability(point, index))}`;
            }}
          />
        </svg>
        <figcaption>{label}: colours of the table</figcaption>
      </figure>
    </div>
  );
}

interface CellsProps {
  boxes: (Box | null)[];
  chosen: number;
  choose: (position: number) => void;
  fill?: (position: number) => string;
  title?: (position: number) => string;
}

function Cells({ boxes, chosen, choose, fill, title }: CellsProps) {
  return (
    <>
      {boxes.map(
        (box, position) =>
          box && (
            // biome-ignore lint/a11y/noStaticElementInteractions: the table does the same by keys
            <rect
              key={position}
              {...box}
              fill={fill?.(position) ?? "transparent"}
              class={position === chosen ? "ll-patch ll-chosen" : "ll-patch"}
              onClick={() => choose(position)}
            >
              {title && <title>{title(position)}</title>}
            </rect>
          ),
      )}
    </>
  );
}

function Wave({ wave }: { wave: [number, number][] }) {
  const size = Math.max(1e-9, ...wave.flat().map(Math.abs));
  const at = (value: number) => 0.5 - value / size / 2;
  const width = 1 / wave.length;
  return (
    <g class="ll-wave">
      {wave.map(([low, high], frame) => (
        <rect
          key={frame}
          x={frame * width}
          y={at(high)}
          width={width}
          height={Math.max(at(low) - at(high), 0.005)}
        />
      ))}
    </g>
  );
}

/** Where a position lies; null for one that is no patch. */
export function boxOf(picture: FedPicture, position: number, count: number): Box | null {
  if (picture.kind === "audio") return { x: position / count, y: 0, width: 1 / count, height: 1 };
  const { rows, columns, first } = picture;
  const patch = position - first;
  if (patch < 0) return null;
  const [row, column] = [Math.floor(patch / columns), patch % columns];
  return { x: column / columns, y: row / rows, width: 1 / columns, height: 1 / rows };
}
