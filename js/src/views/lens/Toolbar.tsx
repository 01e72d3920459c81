import { headHeight } from "../../marks/gridheads";
import { plain } from "../../marks/text";
import { MAX_CELL, MIN_CELL } from "../../marks/windowing";
import type { ColorMode, Compare, LensInfo } from "../../wire/lens";
import type { TokenName } from "../../wire/types";
import { Legend } from "../common/Legend";
import { Switch } from "../common/Switch";
import { TokenSearch } from "../common/TokenSearch";
import type { ViewState } from "./state";

const MODES: { mode: ColorMode; label: string; title: string }[] = [
  { mode: "probability", label: "Probability", title: "Probability of the top token of each cell" },
  { mode: "entropy", label: "Entropy", title: "Entropy of the next-token distribution, in nats" },
  { mode: "rank", label: "Rank", title: "Rank of the token that really follows in the text" },
  { mode: "kl", label: "KL", title: "Divergence of the row from the final row, in nats" },
  { mode: "tracked", label: "Tracked", title: "Probability of a tracked token" },
];

const ALONE = {
  value: "alone" as Compare,
  label: "Alone",
  title: "The chosen lens by itself",
};

const COMPARISONS: { value: Compare; label: string; title: string }[] = [
  { value: "beside", label: "Side by side", title: "Both tables, on one row and one position" },
  {
    value: "change",
    label: "Change",
    title: "How much more or less the other one gives the token that is on top here",
  },
  {
    value: "kl",
    label: "KL between",
    title: "Divergence of the other distribution from this one, in nats",
  },
];

/** How the table is coloured, laid out and searched. */
export function Toolbar({ state }: { state: ViewState }) {
  const { session } = state;
  const { traits } = session;
  const tracked = state.data.value?.meta.tracked ?? [];
  const { position } = state.selected.value;
  // A difference has a colour of its own.
  const coloured = !state.compared || state.beside;
  const lenses = state.several ? (state.meta.value?.lenses ?? []) : [];
  const same = state.through === state.against && lenses[state.against];
  const after = plain(state.data.value?.meta.tokens[position]?.text ?? "");
  return (
    <div class="ll-toolbar" role="toolbar" aria-label="Table">
      {lenses.length > 0 && (
        <Switch
          state={state}
          label="Lens"
          value={String(state.through)}
          choices={lenses.map(({ name }, i) => ({
            value: String(i),
            label: name,
            title: `What the ${name} lens reads in each state`,
          }))}
          choose={(through) => session.write({ through: Number(through) })}
        />
      )}
      {(state.meta.value?.other || lenses.length > 0) && (
        <Switch
          state={state}
          label="Two lenses"
          value={state.compared || lenses.length === 0 ? traits.compare.value : "alone"}
          choices={[...(lenses.length > 0 ? [ALONE] : []), ...COMPARISONS].map((choice) => ({
            ...choice,
            missing:
              same && choice !== ALONE
                ? `Choose another lens: each is compared with ${same.name}.`
                : undefined,
          }))}
          choose={(compare) => session.write({ compare })}
        />
      )}
      {lenses.length > 2 && <Against state={state} lenses={lenses} />}
      {coloured && (
        <Switch
          state={state}
          label="Colour by"
          value={traits.color.value}
          choices={MODES.map(({ mode, label, title }) => ({
            value: mode,
            label,
            title,
            missing:
              mode === "tracked" && tracked.length === 0
                ? "No token is tracked yet: pin one, then press “Colour by it”"
                : undefined,
          }))}
          choose={(color) => session.write({ color })}
        />
      )}
      {coloured && traits.color.value === "tracked" && tracked.length > 1 && (
        <select
          aria-label="Tracked token"
          value={traits.tracked.value}
          onChange={(event) => session.write({ tracked: Number(event.currentTarget.value) })}
        >
          {tracked.map((token, i) => (
            <option key={token.id} value={i}>
              {plain(token.text)}
            </option>
          ))}
        </select>
      )}
      <Legend scale={state.scale.value} />
      <Rows state={state} />
      <div class="ll-tools">
        <TokenSearch
          session={session}
          label={`Find a token in the vocabulary and pin it at position ${position}, after ${after}`}
          placeholder={`Pin a token after ${after}`}
          title={`What is chosen is followed through the layers at position ${position}, after ${after}`}
          choose={(token) => pinFound(state, token)}
        />
        <Layout state={state} />
      </div>
    </div>
  );
}

/** Which lens the others are compared with; another choice is another run. */
function Against({ state, lenses }: { state: ViewState; lenses: readonly LensInfo[] }) {
  const { session } = state;
  const live = session.live.value;
  return (
    <label
      class="ll-group"
      title={live ? "Each lens is compared with this one" : "Another needs a running kernel."}
    >
      <span class="ll-dim">with</span>
      <select
        aria-label="Compared with"
        value={lenses[state.against]?.name}
        disabled={!live}
        onChange={(event) => {
          const against = event.currentTarget.value;
          session.write({ options: { ...session.traits.options.peek(), against } });
        }}
      >
        {lenses.map(({ name }) => (
          <option key={name} value={name}>
            {name}
          </option>
        ))}
      </select>
    </label>
  );
}

const ROWS = [
  {
    value: "blocks",
    label: "Blocks",
    title: "A row for each block: half as many, in half the time",
  },
  { value: "all", label: "All", title: "Also between a block’s attention and its MLP" },
  {
    value: "sublayers",
    label: "Sublayers",
    title: "What each attention and each MLP writes, decoded alone",
  },
] as const;

const POINTS: Record<string, string[]> = {
  blocks: ["embed", "post"],
  all: ["embed", "mid", "post"],
  sublayers: ["attn_out", "mlp_out"],
};

/** The lens that has no map for rows of these kinds, in words. */
function lacking(lenses: readonly LensInfo[], kinds: readonly string[]): string | undefined {
  const lens = lenses.find(
    ({ points }) => points && !kinds.every((kind) => points.some((label) => label.endsWith(kind))),
  );
  return lens && `The ${lens.name} lens was not fitted for these rows.`;
}

/** Which states of the stream are decoded; another choice is another run. */
function Rows({ state }: { state: ViewState }) {
  const { session } = state;
  const points = state.data.value?.meta.points ?? [];
  const has = (kind: string) => points.some((label) => label.endsWith(kind));
  const { lenses = [] } = state.data.value?.meta ?? {};
  const dead = session.live.value ? undefined : "Other rows need a running kernel.";
  return (
    <span class="ll-group">
      <span class="ll-dim">Rows</span>
      <Switch
        state={state}
        label="Rows"
        value={has("_mid") ? "all" : has("_post") ? "blocks" : has("_out") ? "sublayers" : ""}
        choices={ROWS.map((choice) => ({
          ...choice,
          missing: dead ?? lacking(lenses, POINTS[choice.value] ?? []),
        }))}
        choose={(rows) =>
          session.write({ options: { ...session.traits.options.peek(), points: POINTS[rows] } })
        }
      />
    </span>
  );
}

function pinFound(state: ViewState, token: TokenName): void {
  state.session.store.peek()?.vocab.set(token.id, token.text);
  const pin = { position: state.selected.peek().position, id: token.id };
  if (!state.isPinned(pin)) state.togglePin(pin);
}

/** The width range runs over the logarithm: small widths matter as much as large ones. */
const WIDTH_STEPS = 40;
const SPAN = MAX_CELL / MIN_CELL;

export function Layout({ state }: { state: ViewState }) {
  const { session } = state;
  const { traits } = session;
  const width = state.columnWidth.value;
  return (
    <div class="ll-layout">
      <label title="Width of the columns; the edges in the table's head can be dragged too">
        <span class="ll-dim">Width</span>
        <input
          type="range"
          min={0}
          max={WIDTH_STEPS}
          value={Math.round((Math.log(width / MIN_CELL) / Math.log(SPAN)) * WIDTH_STEPS)}
          aria-label="Column width"
          aria-valuetext={`${width} pixels${headHeight(width) > 40 ? ", colour only" : ""}`}
          onInput={(event) => {
            const t = Number(event.currentTarget.value) / WIDTH_STEPS;
            session.write({ cell_width: Math.round(MIN_CELL * SPAN ** t) }, "soon");
          }}
        />
      </label>
      <button
        type="button"
        aria-pressed={traits.transposed.value}
        title="Tokens down, layers across"
        onClick={() => session.write({ transposed: !traits.transposed.value })}
      >
        Transpose
      </button>
    </div>
  );
}
