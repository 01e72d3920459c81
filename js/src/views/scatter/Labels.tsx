import type { ScatterData } from "./data";
import { depthHue, imageOf, type MarkStyle, styleOf } from "./marks";
import type { ScatterState } from "./state";

interface Props {
  state: ScatterState;
  data: ScatterData;
}

/** What colours and shapes mean; a press on a label hides its marks. */
export function Labels({ state, data }: Props) {
  const { colors, labels, fitted } = data.meta.scatter;
  if (colors === "depth") return <Ramp data={data} />;
  const hidden = state.own.traits.hidden_labels.value;
  return (
    <ul class="ll-scatter-labels" aria-label="Labels">
      {labels.map((name, label) => (
        <li key={name}>
          <button
            type="button"
            aria-pressed={!hidden.includes(name)}
            title={`${hidden.includes(name) ? "Show" : "Hide"} ${name}. Twice: only these, or all.`}
            onClick={() => state.toggleLabel(name)}
            onDblClick={() => state.soloLabel(name)}
          >
            <Mark state={state} style={styleOf(label)} hollow={false} />
            {name}
          </button>
        </li>
      ))}
      {fitted.length > 0 && <Fitted state={state} />}
    </ul>
  );
}

/** Outlines are what axes were fitted on. */
function Fitted({ state }: { state: ScatterState }) {
  const { fitted } = state.own.traits;
  return (
    <li>
      <button
        type="button"
        aria-pressed={fitted.value}
        title="The axes were fitted on these, so that they lie apart whatever their labels say"
        onClick={() => state.own.write({ fitted: !fitted.peek() })}
      >
        <Mark state={state} style={styleOf(-1)} hollow />
        outlines: axes were fitted on these
      </button>
    </li>
  );
}

/** A mark as it is drawn, in a line of text. */
function Mark(props: { state: ScatterState; style: MarkStyle; hollow: boolean }) {
  const palette = props.state.palette.value;
  const ratio = window.devicePixelRatio || 1;
  const image = imageOf(props.style, props.hollow, 4.6, palette, ratio);
  const size = image.width / ratio;
  return <img alt="" width={size} height={size} src={image.toDataURL()} />;
}

function Ramp({ data }: { data: ScatterData }) {
  const { words } = data.meta.scatter;
  const last = data.size - 1;
  const hues = words.map((_, item) => depthHue(item, data.size));
  return (
    <p class="ll-scatter-ramp ll-dim">
      {words[0]}
      <span style={{ background: `linear-gradient(90deg, ${hues.join(", ")})` }} />
      {words[last]}
    </p>
  );
}
