import { useId, useLayoutEffect, useRef } from "preact/hooks";
import { compact } from "../../marks/numbers";
import { plain } from "../../marks/text";
import { unitName } from "../arrays/data";
import { around } from "../common/around";
import { useRoot } from "../common/root";
import { ScatterCanvas } from "./controller";
import type { ScatterData } from "./data";
import type { ScatterState } from "./state";

interface Props {
  state: ScatterState;
  data: ScatterData;
}

/** The pictures side by side, which one set of keys walks through, and a line that says the mark. */
export function Pictures({ state, data }: Props) {
  const id = useId();
  const { item } = state.own.traits;
  const step = state.drawnStep.value;
  const pointed = state.pointed.value;
  const said = pointed >= 0 ? pointed : item.value;
  const pictures = Array.from({ length: data.pictures }, (_, i) => i);
  return (
    <div class="ll-scatter">
      <div
        class="ll-scatter-pictures"
        role="listbox"
        tabIndex={0}
        aria-orientation="horizontal"
        aria-label={`${data.size} marks at ${state.stepName(step)}, ${axesOf(data)}`}
        aria-activedescendant={item.value >= 0 ? `${id}-${item.value}` : undefined}
        onKeyDown={(event) => moved(state, data, event)}
      >
        <div class="ll-scatter-row" aria-hidden="true">
          {pictures.map((picture) => (
            <Picture key={picture} state={state} data={data} picture={picture} />
          ))}
        </div>
        <div class="ll-offscreen" role="presentation">
          {around(Math.max(0, item.value), 1, data.size).map((one) => (
            // biome-ignore lint/a11y/useFocusableInteractive: the list has the focus, its marks never do
            <div
              key={one}
              id={`${id}-${one}`}
              role="option"
              aria-selected={one === item.value}
              aria-posinset={one + 1}
              aria-setsize={data.size}
            >
              {sentence(data, step, one)}
            </div>
          ))}
        </div>
      </div>
      <p class="ll-scatter-says" aria-hidden="true">
        {said >= 0 ? sentence(data, step, said) : " "}
      </p>
    </div>
  );
}

function Picture({ state, data, picture }: Props & { picture: number }) {
  const root = useRoot();
  const canvas = useRef<HTMLCanvasElement>(null);
  useLayoutEffect(() => {
    if (!root.current || !canvas.current) return;
    const drawn = new ScatterCanvas(state, picture, canvas.current, root.current);
    return () => drawn.dispose();
  }, [state, picture, root]);
  const { pictures } = data.meta.scatter;
  return (
    <figure>
      {data.pictures > 1 && (
        <figcaption>
          {data.meta.axes[pictures]?.long_name}: {data.meta.axes[pictures]?.labels[picture]}
        </figcaption>
      )}
      <canvas ref={canvas} />
      <p class="ll-dim ll-scatter-axes">{axesOf(data)}</p>
    </figure>
  );
}

function axesOf(data: ScatterData): string {
  const { x, y } = data.meta.scatter;
  return `across: ${axisName(data, x)}; up: ${axisName(data, y)}`;
}

function axisName({ meta }: ScatterData, name: string): string {
  const array = meta.arrays.find((one) => one.name === name);
  const unit = unitName(array?.units ?? "1");
  return `${array?.long_name ?? name}${unit && ` (${unit})`}`;
}

/** A mark in one sentence: its words, its label, where it is. */
export function sentence(data: ScatterData, step: number, item: number): string {
  const { labels, colors, fitted } = data.meta.scatter;
  const parts = [plain(data.words(item))];
  if (colors === "label") {
    const label = data.labels(0)[item] ?? -1;
    parts.push(label >= 0 ? (labels[label] ?? "") : "no label");
  }
  if (fitted.length > 0) parts.push(data.isFitted(item) ? "axes were fitted on it" : "set apart");
  const [x, y] = data.at(0, step, item);
  parts.push(`at ${compact(x, 3)}, ${compact(y, 3)}`);
  return parts.join("; ");
}

/** Left and right go through the marks, up and down through the layers. */
function moved(state: ScatterState, data: ScatterData, event: KeyboardEvent): void {
  if (event.ctrlKey || event.metaKey || event.altKey) return;
  const item = state.own.traits.item.peek();
  if (event.key === "ArrowUp") state.goStep(state.drawnStep.peek() + 1, "now");
  else if (event.key === "ArrowDown") state.goStep(state.drawnStep.peek() - 1, "now");
  else if (event.key === "ArrowRight") state.choose(state.beside(item, 1));
  else if (event.key === "ArrowLeft") state.choose(state.beside(item < 0 ? data.size : item, -1));
  else if (event.key === "Home") state.choose(state.beside(-1, 1));
  else if (event.key === "End") state.choose(state.beside(data.size, -1));
  else if (event.key === "?") state.help.value = !state.help.peek();
  else return;
  event.preventDefault();
  event.stopPropagation();
}
