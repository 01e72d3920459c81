import { useSignal } from "@preact/signals";
import { useEffect } from "preact/hooks";
import { plain } from "../../marks/text";
import { Legend } from "../common/Legend";
import { Part } from "../common/Part";
import { Switch } from "../common/Switch";
import { Preview } from "../lens/Floating";
import { Table } from "../lens/Table";
import { TopList, Where } from "../lens/TopList";
import { keyOf } from "./edits";
import { LensPair, type Which } from "./lenspair";
import type { PatchState } from "./state";

const NO_KERNEL = "The lens of a patched run needs a running kernel; this page has none.";
const NO_PATCH = "Open a cell or pick patches first.";

interface Shown {
  key: string;
  pair: LensPair;
}

/** The logit lens before and after the patches, on demand. */
export function LensPart({ state }: { state: PatchState }) {
  const { session } = state;
  const shown = useSignal<Shown | null>(null);
  const asking = useSignal<AbortController | null>(null);
  const edits = state.subject.value;
  const run = state.meta.value?.run ?? 0;
  const key = `${run}:${keyOf(edits)}`;
  useEffect(() => () => asking.peek()?.abort(), [asking]);
  const ask = async () => {
    asking.peek()?.abort();
    const controller = new AbortController();
    asking.value = controller;
    session.fault.value = "";
    try {
      const { buffers } = await session.rpc.request("lens", { edits }, controller.signal);
      shown.value = { key, pair: await LensPair.read(state, buffers) };
    } catch (error) {
      const { name, message } = error as Error;
      if (name !== "AbortError") session.fault.value = `The lens could not be made. ${message}`;
    }
    if (asking.peek() === controller) asking.value = null;
  };
  const live = session.live.value;
  const missing = !live ? NO_KERNEL : edits.length === 0 ? NO_PATCH : "";
  const old = shown.value && shown.value.key !== key;
  return (
    <Part class="ll-lens-part" aria-label="Lens before and after">
      <header class="ll-bar-head">
        <h3>Logit lens</h3>
        <span class="ll-dim">
          {old ? "of the patches that were chosen before" : "of the run before and after the patch"}
        </span>
        <span class="ll-grow" />
        {asking.value ? (
          <button type="button" onClick={() => asking.peek()?.abort()}>
            Cancel
          </button>
        ) : (
          <button
            type="button"
            disabled={missing !== ""}
            title={missing}
            onClick={() => void ask()}
          >
            {shown.value ? "Compute again" : "Compute"}
          </button>
        )}
      </header>
      {asking.value && (
        <p class="ll-note" role="status">
          Running the lens twice…
        </p>
      )}
      {shown.value && <Pair key={shown.value.key} pair={shown.value.pair} />}
    </Part>
  );
}

const CHOICES: { value: Which; label: string }[] = [
  { value: "before", label: "Before" },
  { value: "after", label: "After" },
  { value: "difference", label: "Difference" },
];

function Pair({ pair }: { pair: LensPair }) {
  const cell = pair.selected.value;
  const tracked = pair.meta.value?.tracked ?? [];
  return (
    <>
      <div class="ll-toolbar" role="toolbar" aria-label="Lens">
        <Switch
          label="Lens of the run"
          value={pair.which.value}
          choices={CHOICES}
          choose={(which) => {
            pair.which.value = which;
          }}
        />
        {pair.which.value === "difference" && (
          <select
            aria-label="Difference of"
            value={pair.of.value}
            onChange={(event) => {
              pair.of.value = Number(event.currentTarget.value);
            }}
          >
            {tracked.map((token, i) => (
              <option key={token.id} value={i}>
                {plain(token.text)}
              </option>
            ))}
            <option value={-1}>top token after</option>
          </select>
        )}
        <Legend scale={pair.scale.value} />
      </div>
      <div class="ll-main">
        <Table state={pair} />
        <Part class="ll-side" aria-label="Top tokens before and after">
          <Where data={pair.beforeData} cell={cell} />
          <h4>Before</h4>
          <TopList state={pair} data={pair.beforeData} cell={cell} pinnable={false} ids={false} />
          <h4>After</h4>
          <TopList state={pair} data={pair.afterData} cell={cell} pinnable={false} ids={false} />
        </Part>
      </div>
      <Preview state={pair} />
    </>
  );
}
