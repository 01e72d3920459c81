import { useEffect, useMemo } from "preact/hooks";
import { shareAxis } from "../../marks/axes";
import { PromptToken, TokenText } from "../../marks/TokenText";
import { plain } from "../../marks/text";
import { percent } from "../common/format";
import { Part } from "../common/Part";
import { Plot } from "../common/Plot";
import { Swatch } from "../common/Swatch";
import { Switch } from "../common/Switch";
import type { LensData } from "./data";
import { pointLabel } from "./data";
import type { Trajectory, ViewState } from "./state";

/** The probability of each pinned token over the rows of the lens. */
export function Trajectories({ state }: { state: ViewState }) {
  const data = state.data.value;
  const lines = state.trajectories.value;
  useEffect(() => {
    void state.askTracks();
  }, [state, lines]);
  if (!data || lines.length === 0) return null;
  const { point } = state.selected.value;
  return (
    <Part class="ll-chart" aria-label="Pinned tokens by layer">
      <header class="ll-bar-head">
        <h3>Pinned tokens</h3>
        <span class="ll-dim">probability by row; press in the chart to go there</span>
        <span class="ll-grow" />
        <Switch
          label="Scale of the probability axis"
          value={state.session.traits.scale.value}
          choices={[
            { value: "linear", label: "linear" },
            { value: "log", label: "log" },
          ]}
          choose={(scale) => state.session.write({ scale })}
        />
        <button type="button" onClick={() => state.session.write({ pins: [] })}>
          Unpin all
        </button>
      </header>
      <Curves state={state} data={data} lines={lines} />
      <ul class="ll-lines">
        {lines.map((line) => (
          <Line
            key={`${line.pin.position}:${line.pin.id}:${line.lens}`}
            state={state}
            data={data}
            line={line}
            point={point}
          />
        ))}
      </ul>
    </Part>
  );
}

const HEIGHT = 190;

interface CurvesProps {
  state: ViewState;
  data: LensData;
  lines: readonly Trajectory[];
}

function Curves({ state, data, lines }: CurvesProps) {
  const palette = state.palette.value;
  const log = state.session.traits.scale.value === "log";
  const input = useMemo(
    () => ({
      places: data.meta.points.map((_, i) => i),
      label: (place: number) => pointLabel(data.meta.points[place] ?? ""),
      lines,
      axis: shareAxis(
        lines.map((line) => line.values),
        log,
      ),
      palette,
      height: HEIGHT,
    }),
    [data, lines, palette, log],
  );
  return (
    <Plot
      input={input}
      mark={state.selected.value.point}
      choose={(point) => state.select({ ...state.selected.peek(), point })}
    />
  );
}

interface LineProps {
  state: ViewState;
  data: LensData;
  line: Trajectory;
  point: number;
}

function Line({ state, data, line, point }: LineProps) {
  const { pin, style, values, full, problem } = line;
  const value = values[point];
  const name = data.tokenName(pin.id);
  return (
    <li>
      <Swatch style={style} />
      <TokenText text={name} />
      <span class="ll-dim">
        {data.relation} <PromptToken token={data.meta.tokens[pin.position]} />
        <span class="ll-num">
          {" "}
          · {data.place} {pin.position}
        </span>
        {line.lens && ` · ${line.lens}`}
      </span>
      <span class="ll-num ll-value">
        {value === null || value === undefined ? "not in the top k" : percent(value)}
      </span>
      {!full && (
        <span class="ll-note" title={problem || undefined}>
          {problem
            ? `The line is broken: ${problem}`
            : `known only in the top ${data.meta.k}; broken elsewhere`}
        </span>
      )}
      {!state.branch && <ColorBy state={state} data={data} id={pin.id} />}
      <button
        type="button"
        class="ll-icon"
        aria-label={`Unpin ${plain(name)}`}
        title="Unpin"
        onClick={() => state.togglePin(pin)}
      >
        ✕
      </button>
    </li>
  );
}

function ColorBy({ state, data, id }: { state: ViewState; data: LensData; id: number }) {
  const able = state.session.live.value || data.trackedIndex(id) >= 0;
  return (
    <button
      type="button"
      class="ll-link"
      disabled={!able}
      title={
        able
          ? "Colour the table by the probability of this token"
          : "This token was not followed in every cell; that needs a running kernel."
      }
      onClick={() => state.colorBy(id)}
    >
      Colour by it
    </button>
  );
}
