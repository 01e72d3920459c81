import { useMemo } from "preact/hooks";
import { layerTicks } from "../../marks/axes";
import { compact } from "../../marks/numbers";
import { Plot } from "../common/Plot";
import { Swatch } from "../common/Swatch";
import { layerName, type MetricsData, placeName, unitName } from "./data";
import { fullLabel, type Panel, type PanelLine } from "./grouping";
import { axisOf, chartLine, styleOf, visibleLines } from "./lines";
import type { MetricsState } from "./state";

const HEIGHT = 150;
const LARGE = 300;

interface Props {
  state: MetricsState;
  data: MetricsData;
}

/** All curves as small charts over one axis of layers. */
export function Panels({ state, data }: Props) {
  const panels = state.panels.value;
  if (panels.length === 0) return null;
  return (
    <section
      class="ll-panels"
      // biome-ignore lint/a11y/noNoninteractiveTabindex: arrow keys move the layer
      tabIndex={0}
      aria-label="Curves by layer. Left and right arrow keys select a layer, Home and End the first and last."
      onKeyDown={(event) => layerKey(state, event)}
    >
      {panels.map((panel) => (
        <One key={panel.key} state={state} data={data} panel={panel} />
      ))}
    </section>
  );
}

const STEPS: Record<string, number> = {
  ArrowLeft: -1,
  ArrowDown: -1,
  ArrowRight: 1,
  ArrowUp: 1,
  Home: Number.NEGATIVE_INFINITY,
  End: Number.POSITIVE_INFINITY,
};

function layerKey(state: MetricsState, event: KeyboardEvent): void {
  if (event.ctrlKey || event.metaKey || event.altKey) return;
  const step = STEPS[event.key];
  if (step !== undefined) state.step(step);
  else if (event.key === "?") state.help.value = !state.help.peek();
  else return;
  event.preventDefault();
  event.stopPropagation();
}

function One({ state, data, panel }: Props & { panel: Panel }) {
  const version = state.session.version.value;
  const { focus, scale, hidden, overlay } = state.session.traits;
  const palette = state.palette.value;
  const places = state.places.value;
  const lines = visibleLines(state, panel);
  const first = panel.lines[0]?.array.name ?? "";
  const large = focus.value === first;
  const input = useMemo(() => {
    const seen = lines.filter(({ array }) => state.shown(array.name));
    const drawn = seen.map((line) =>
      chartLine(data, places, line, styleOf(line, panel, overlay.value)),
    );
    return {
      places,
      label: placeName,
      ticks: (width: number) => layerTicks(places, width),
      lines: drawn,
      axis: axisOf(drawn, scale.value === "log"),
      palette,
      height: large ? LARGE : HEIGHT,
    };
  }, [data, panel, places, palette, scale.value, hidden.value, overlay.value, large, version]);
  return (
    <section class={large ? "ll-panel ll-large" : "ll-panel"} aria-label={panel.title}>
      <header>
        <h3>{panel.title}</h3>
        <span class="ll-dim">{unitName(panel.units)}</span>
        <span class="ll-grow" />
        <button
          type="button"
          class="ll-icon"
          aria-pressed={large}
          aria-label={large ? "Show small again" : `Show ${panel.title} large`}
          title={large ? "Show small again" : "Show large"}
          onClick={() => state.toggleFocus(first)}
        >
          ⤢
        </button>
      </header>
      <p class="ll-question" title={about(panel, data)}>
        {panel.question}
      </p>
      <Plot
        input={input}
        mark={state.selected()}
        cross={state.over.value}
        choose={(layer) => state.select(layer, "now")}
        over={(layer) => {
          state.over.value = layer;
        }}
      />
      <ul class="ll-legend-lines">
        {lines.map((line) => (
          <Line
            key={`${line.array.name}:${line.k}`}
            state={state}
            data={data}
            line={line}
            panel={panel}
          />
        ))}
      </ul>
    </section>
  );
}

/** Question, formula and source of every metric in a panel. */
function about(panel: Panel, { meta }: MetricsData): string {
  const names = [...new Set(panel.lines.map(({ array }) => array.metric))];
  return names
    .map((name) => meta.described[name])
    .filter((entry) => entry !== undefined)
    .map(({ name, question, formula, source }) => `${name}: ${question}\n${formula}\n${source}`)
    .join("\n\n");
}

interface LineProps extends Props {
  line: PanelLine;
  panel: Panel;
}

/** A curve's name, its value at the layer that is read out, and a press that hides it. */
function Line({ state, data, line, panel }: LineProps) {
  state.session.version.value;
  const { array, k } = line;
  const { overlay } = state.session.traits;
  const layer = state.read.value;
  const value = layer === null ? Number.NaN : data.atLayer(array, layer, k);
  const interval = layer === null ? null : data.intervalAtLayer(array, layer, k);
  const shown = state.shown(array.name);
  const name = fullLabel(line, data.meta);
  // What the heading says already is not said twice.
  const alone = panel.lines.length === 1 && name.toLowerCase() === panel.title.toLowerCase();
  return (
    <li>
      {alone ? (
        <span class="ll-dim">{layer === null ? "" : layerName(layer)}</span>
      ) : (
        <button
          type="button"
          aria-pressed={shown}
          title={`${shown ? "Hide" : "Show"} ${array.name}: ${array.long_name}`}
          onClick={() => state.toggleLine(array.name)}
        >
          <Swatch style={styleOf(line, panel, overlay.value)} />
          <span class="ll-line-name">{name}</span>
        </button>
      )}
      <span class="ll-num">
        {layer === null ? "" : compact(value)}
        {interval && (
          <span class="ll-dim" title="95 % interval over texts">
            {` [${compact(interval.low, 3)}, ${compact(interval.high, 3)}]`}
          </span>
        )}
      </span>
    </li>
  );
}
