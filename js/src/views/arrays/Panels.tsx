import { useMemo } from "preact/hooks";
import { layerTicks } from "../../marks/axes";
import { compact } from "../../marks/numbers";
import { Part } from "../common/Part";
import { Plot } from "../common/Plot";
import { Swatch } from "../common/Swatch";
import { Terms } from "../common/Term";
import { type ArraysData, eachOf, layerName, placeName, unitName } from "./data";
import { fullLabel, lineName, type Panel, type PanelLine } from "./grouping";
import { Interval } from "./Interval";
import { axisOf, chartLine, placesOf, standingOf, styleOf, visibleLines } from "./lines";
import type { ArraysState } from "./state";

const HEIGHT = 150;
const LARGE = 300;
/** The widths of the chosen curve and of the others. */
const STRONG = 3.5;
const WEAK = 1;
const BY_LAYER =
  "Curves by layer. Left and right arrow keys select a layer, Home and End the first and last.";
/** Longer names under an axis are cut. */
const LETTERS = 22;

interface Props {
  state: ArraysState;
  data: ArraysData;
}

/** All curves as small charts; those over layers share one axis. */
export function Panels({ state, data }: Props) {
  state.session.version.value;
  // What a run that is over has left without any number is not there to be drawn.
  const some = ({ lines }: Panel) => lines.some(({ array }) => data.extent(array.name));
  const panels = state.panels.value.filter((panel) => !data.store.complete || some(panel));
  if (panels.length === 0) return null;
  return (
    <Part
      class="ll-panels"
      tabIndex={0}
      aria-label={panels.some(({ dim }) => !dim) ? BY_LAYER : "Curves"}
      onKeyDown={(event) => layerKey(state, data, event)}
    >
      {panels.map((panel) => (
        <One key={panel.key} state={state} data={data} panel={panel} />
      ))}
    </Part>
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

function layerKey(state: ArraysState, data: ArraysData, event: KeyboardEvent): void {
  if (event.ctrlKey || event.metaKey || event.altKey) return;
  const step = STEPS[event.key];
  const [panel] = state.panels.peek();
  const read = panel ? axisState(state, panel).mark : null;
  if (step !== undefined) state.step(step);
  else if (event.key === "Enter" && event.target === event.currentTarget && panel && read !== null)
    openPoint(state, data, panel, read);
  else if (event.key === "?") state.help.value = !state.help.peek();
  else return;
  event.preventDefault();
  event.stopPropagation();
}

/** Show what a point of the chosen curve, or of the first that is drawn, is made of. */
function openPoint(state: ArraysState, data: ArraysData, panel: Panel, place: number): void {
  const chosen = chosenLine(state, panel);
  const drawn = panel.lines.filter((line) => state.shown(lineName(line)));
  const line = drawn.find(({ k }) => k === chosen) ?? drawn[0];
  const index = line && data.find(line.array, place, line.k);
  if (index) state.open(line.array, index);
}

/** Which of several curves is chosen, where they are entries of an axis that has a choice; or -1. */
function chosenLine(state: ArraysState, { lines, whole }: Panel): number {
  const array = (whole ? undefined : lines[0])?.array;
  const each = array && state.meta.value ? eachOf(array, state.meta.value) : "";
  return each ? state.at(each) : -1;
}

/** What is selected and pointed at along a panel's axis, and how it is changed. */
function axisState(state: ArraysState, { dim }: Panel) {
  if (!dim) {
    return {
      mark: state.selected(),
      cross: state.over.value,
      read: state.read.value,
      choose: (layer: number) => state.select(layer, "now"),
      over: (layer: number | null) => {
        state.over.value = layer;
      },
    };
  }
  const at = state.at(dim);
  const mark = at < 0 ? null : at;
  const { value: pointed } = state.overEntry;
  const cross = pointed?.dim === dim ? pointed.index : null;
  return {
    mark,
    cross,
    read: cross ?? mark,
    choose: (index: number) => state.go({ [dim]: index }),
    over: (index: number | null) => {
      state.overEntry.value = index === null ? null : { dim, index };
    },
  };
}

function One({ state, data, panel }: Props & { panel: Panel }) {
  const version = state.session.version.value;
  const { focus, scale, hidden } = state.session.traits;
  const palette = state.palette.value;
  const both = state.overlaid();
  const places = useMemo(
    () => placesOf(state, data, panel),
    [state, data, panel, state.places.value],
  );
  const lines = visibleLines(state, panel);
  const first = panel.lines[0]?.array.name ?? "";
  const chosen = chosenLine(state, panel);
  const large = focus.value === first;
  const input = useMemo(() => {
    const dots = data.meta.axes[panel.dim]?.named;
    const draw = (line: PanelLine) => ({
      ...chartLine(data, places, line, styleOf(line, panel, both), dots),
      width: chosen < 0 ? undefined : line.k === chosen ? STRONG : WEAK,
    });
    const drawn = lines.filter((line) => state.shown(lineName(line))).map(draw);
    const spots = standingOf(data, panel.dim);
    const entry = (i: number) => {
      const label = data.label(panel.dim, i);
      return spots ? compact(Number(label), 3) : short(label);
    };
    const together = panel.whole ? visibleLines(state, panel.whole).map(draw) : drawn;
    return {
      places,
      spots,
      label: panel.dim ? entry : placeName,
      ...(panel.dim ? {} : { ticks: (width: number) => layerTicks(places, width) }),
      lines: drawn,
      axis: axisOf(
        together,
        scale.value === "log",
        panel.whole !== undefined,
        lines.some(({ array }) => array.unclipped),
      ),
      palette,
      height: large ? LARGE : HEIGHT,
    };
  }, [data, panel, places, palette, scale.value, hidden.value, both, large, chosen, version]);
  const { mark, cross, choose, over } = axisState(state, panel);
  return (
    <Part class={large ? "ll-panel ll-large" : "ll-panel"} aria-label={panel.title}>
      <header>
        <h3>
          <Terms state={state} text={panel.title} />
        </h3>
        <span class="ll-dim">
          <Terms state={state} text={unitName(panel.units)} />
        </span>
        <span class="ll-grow" />
        <Apart state={state} panel={panel} />
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
        {panel.dim && ` by ${data.axisName(panel.dim)}`}
      </p>
      <Plot
        input={input}
        mark={mark}
        cross={cross}
        choose={(place) => {
          choose(place);
          openPoint(state, data, panel, place);
        }}
        over={over}
      />
      <ul class="ll-legend-lines">
        {lines.map((line) => (
          <Line key={lineName(line)} state={state} data={data} line={line} panel={panel} />
        ))}
      </ul>
    </Part>
  );
}

function short(label: string): string {
  return label.length > LETTERS ? `${label.slice(0, LETTERS - 1)}…` : label;
}

/** Draws several curves in a chart each, with one scale, and together again. */
function Apart({ state, panel }: { state: ArraysState; panel: Panel }) {
  const whole = panel.whole ?? panel;
  if (whole.lines.length < 2 || (panel.whole && panel.lines[0] !== whole.lines[0])) return null;
  const apart = panel.whole !== undefined;
  return (
    <button
      type="button"
      class="ll-icon"
      aria-pressed={apart}
      aria-label={
        apart ? `Draw ${whole.title} in one chart` : `Draw ${whole.title} in a chart each`
      }
      title={apart ? "Draw them in one chart" : "Draw each curve in a chart of its own"}
      onClick={() => state.toggleApart(whole.key)}
    >
      ⊞
    </button>
  );
}

/** Question, formula and source of every metric in a panel. */
function about(panel: Panel, { meta }: ArraysData): string {
  const names = [...new Set(panel.lines.map(({ array }) => array.metric))];
  return names
    .flatMap((name) => {
      const entry = meta.described[name];
      if (!entry) return [];
      const { question, formula, source } = entry;
      return [[`${name}: ${question}`, formula, source].filter(Boolean).join("\n")];
    })
    .join("\n\n");
}

interface LineProps extends Props {
  line: PanelLine;
  panel: Panel;
}

/** A curve's name, its value where it is read out, and a press that hides it. */
function Line({ state, data, line, panel }: LineProps) {
  state.session.version.value;
  const { array, k } = line;
  const { read } = axisState(state, panel);
  const value = read === null ? Number.NaN : data.atPlace(array, read, k);
  const interval = read === null ? null : data.intervalAtPlace(array, read, k);
  const own = lineName(line);
  const shown = state.shown(own);
  const name = fullLabel(line, data.meta);
  // What the heading says already is not said twice.
  const alone = panel.lines.length === 1 && name.toLowerCase() === panel.title.toLowerCase();
  return (
    <li>
      {alone ? (
        <span class="ll-dim">{read === null ? "" : placeWords(data, panel, read)}</span>
      ) : (
        <button
          type="button"
          aria-pressed={shown}
          title={`${shown ? "Hide" : "Show"} ${array.name}: ${array.long_name}. Twice: only this one, or all.`}
          onClick={() => state.toggleLine(own)}
          onDblClick={() => state.soloLine(own, panel.lines.map(lineName))}
        >
          <Swatch style={styleOf(line, panel, state.overlaid())} />
          <span
            class={
              k !== null && k === chosenLine(state, panel)
                ? "ll-line-name ll-strong"
                : "ll-line-name"
            }
          >
            {name}
          </span>
        </button>
      )}
      <span class="ll-num">
        {read === null ? "" : compact(value)}
        <Interval ends={interval} />
      </span>
    </li>
  );
}

function placeWords(data: ArraysData, { dim }: Panel, place: number): string {
  return dim ? `${data.axisName(dim)} ${data.label(dim, place)}` : layerName(place);
}
