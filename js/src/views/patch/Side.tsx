import { written } from "../../marks/numbers";
import type { Distribution } from "../../wire/patch";
import { CopyCode } from "../common/Copy";
import { Part } from "../common/Part";
import { Switch } from "../common/Switch";
import { Changes } from "./Changes";
import type { PatchData } from "./data";
import { describe, inForce } from "./edits";
import { Numbers } from "./Numbers";
import type { PatchState } from "./state";

/** What the chosen patch does to the next token. */
export function Side({ state, data }: { state: PatchState; data: PatchData }) {
  const list = inForce(state.session.traits.edits.value).length;
  return (
    <Part class="ll-side" aria-label="Effect on the next token">
      <Switch
        label="Show the effect of"
        value={state.shown.value}
        choices={[
          { value: "cell", label: "Selected cell" },
          {
            value: "list",
            label: `List (${list})`,
            missing: list === 0 ? "No patch of the list is on." : undefined,
          },
        ]}
        choose={(shown) => {
          state.shown.value = shown;
        }}
      />
      {state.shown.value === "cell" ? (
        <CellPanel state={state} data={data} />
      ) : (
        <ListPanel state={state} count={list} />
      )}
      <Effect state={state} />
    </Part>
  );
}

function CellPanel({ state, data }: { state: PatchState; data: PatchData }) {
  state.session.version.value;
  const cell = state.selected.value;
  if (!cell) return <p class="ll-note">Press a cell to see what its patch does.</p>;
  const edit = state.editAt(cell);
  const { point, position } = cell;
  if (!edit) {
    return (
      <p class="ll-note">
        {data.columnName(position)} belongs to no token of the other prompt, so there is no value to
        put here. “Pair tokens” above the grid gives it one.
      </p>
    );
  }
  return (
    <>
      <p class="ll-where">
        <b>{describe(edit, data).what}</b>
      </p>
      <Numbers
        meta={data.meta}
        value={data.metric(point, position)}
        recovered={data.drawn(point, position)}
        guessed={data.guessed(point, position)}
      />
      <div class="ll-actions">
        <button
          type="button"
          title="Put this patch into the list (A)"
          onClick={() => state.patch(cell, cell)}
        >
          Add to the list
        </button>
        <button
          type="button"
          title="Take this cell as the source; then press the cell that its value goes to"
          onClick={() => state.gesture({ type: "pick", cell })}
        >
          Use as source
        </button>
      </div>
    </>
  );
}

function ListPanel({ state, count }: { state: PatchState; count: number }) {
  const answer = state.answer();
  const told = answer && "reply" in answer ? (answer.reply.result as Distribution) : null;
  const meta = state.meta.value;
  if (!meta || count === 0) return null;
  return (
    <>
      <p class="ll-where">
        <b>{count === 1 ? "1 patch" : `${count} patches together`}</b>
      </p>
      {told && (
        <Numbers
          meta={meta}
          value={told.metric.after ?? Number.NaN}
          recovered={told.metric.recovered ?? Number.NaN}
        />
      )}
    </>
  );
}

/** The distribution before and after, or why there is none. */
function Effect({ state }: { state: PatchState }) {
  const edits = state.subject.value;
  const answer = state.answer();
  if (!state.session.live.value) {
    return (
      <p class="ll-note">
        The next token after a patch needs a running kernel; this page has none.
      </p>
    );
  }
  if (edits.length === 0) {
    if (state.shown.value === "cell" && state.selected.value) {
      return <p class="ll-note">Press the cell, or Enter, to run its patch.</p>;
    }
    return null;
  }
  if (!answer || "asked" in answer) {
    return (
      <p class="ll-note" role="status">
        Running the patch…
      </p>
    );
  }
  if ("problem" in answer) {
    return (
      <p class="ll-error" role="alert">
        {answer.problem}
      </p>
    );
  }
  const told = answer.reply.result as Distribution;
  const meta = state.meta.value;
  const best = [...told.tokens].sort((a, b) => b.after - a.after)[0];
  return (
    <>
      <Changes tokens={told.tokens} keep={[meta?.answer?.id, meta?.wrong?.id]} />
      <span class="ll-offscreen" role="status">
        {best &&
          `Next token ${best.text}, recovered ${written(told.metric.recovered ?? Number.NaN)}.`}
      </span>
      <div class="ll-code">
        <header>
          <span class="ll-dim">Python</span>
          <CopyCode code={told.code} setup={meta?.setup ?? ""} label="Copy" missing="" />
        </header>
        {/* biome-ignore lint/a11y/noNoninteractiveTabindex: it scrolls, and keys must reach it */}
        <pre tabIndex={0}>{told.code}</pre>
      </div>
    </>
  );
}
