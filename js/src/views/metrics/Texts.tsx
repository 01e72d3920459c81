import { useSignal, useSignalEffect } from "@preact/signals";
import { Fed, Notes } from "../common/Fed";
import { whole } from "../common/format";
import { More } from "../common/More";
import { RunButton, TextField, useDraft } from "../common/TextField";
import type { MetricsState } from "./state";

/** More texts than this show their beginning; the rest is one press away. */
const MOST = 4;

/** The texts that are measured, and how much of them there is. */
export function Texts({ state }: { state: MetricsState }) {
  if (!state.session.traits.linked.value) return <OwnTexts state={state} />;
  return (
    <div class="ll-prompt">
      <Fed state={state}>
        <Amount state={state} />
      </Fed>
    </div>
  );
}

/** Texts that are edited in place. */
function OwnTexts({ state }: { state: MetricsState }) {
  const { session } = state;
  const { texts } = session.traits;
  const drafts = useDraft(texts);
  const all = useSignal(false);
  useSignalEffect(() => {
    state.drafting.value = JSON.stringify(drafts.value) !== JSON.stringify(texts.value);
  });
  const live = session.live.value;
  const list = drafts.value.length > 0 ? drafts.value : [""];
  const shown = all.value ? list : list.slice(0, list.length > MOST ? MOST - 1 : MOST);
  const set = (next: string[]) => {
    drafts.value = next;
  };
  const run = () => state.runTexts(drafts.peek().filter((text) => text.trim() !== ""));
  return (
    <div class="ll-prompt">
      <div class="ll-prompt-line">
        <div class="ll-texts">
          {shown.map((text, i) => (
            <Text
              // The place is the identity: texts may be equal.
              key={i}
              text={text}
              name={list.length === 1 ? "Text" : `Text ${i + 1} of ${list.length}`}
              live={live}
              write={(value) => set(list.map((old, j) => (j === i ? value : old)))}
              remove={list.length > 1 ? () => set(list.filter((_, j) => j !== i)) : undefined}
              run={run}
            />
          ))}
        </div>
        <RunButton live={live} title="Measure these texts (Enter)" run={run} />
      </div>
      <Fed state={state}>
        <Amount state={state} />
        {list.length > MOST && <More all={all} count={list.length} />}
        {live && (
          <button
            type="button"
            class="ll-link"
            onClick={() => {
              all.value = true;
              set([...list, ""]);
            }}
          >
            Add a text
          </button>
        )}
      </Fed>
    </div>
  );
}

interface TextProps {
  text: string;
  name: string;
  live: boolean;
  write: (value: string) => void;
  /** Absent for the last one. */
  remove: (() => void) | undefined;
  run: () => void;
}

function Text({ text, name, live, write, remove, run }: TextProps) {
  return (
    <div class="ll-text">
      <TextField name={name} text={text} live={live} write={write} run={run} />
      {remove && live && (
        <button
          type="button"
          class="ll-icon"
          aria-label={`Take away ${name.toLowerCase()}`}
          title="Take away"
          onClick={remove}
        >
          ✕
        </button>
      )}
    </div>
  );
}

/** How much was fed, and how much of it counts. */
function Amount({ state }: { state: MetricsState }) {
  state.session.version.value;
  const meta = state.meta.value;
  if (!meta) return null;
  const { n_texts, n_tokens, n_counted, skip_first, notes } = meta;
  const counted = n_counted !== null && n_counted !== n_tokens;
  return (
    <>
      <span class="ll-dim">
        {whole(n_texts)} {n_texts === 1 ? "text" : "texts"}, {whole(n_tokens)}{" "}
        {n_tokens === 1 ? "token" : "tokens"}
        {counted && `, ${whole(n_counted)} count`}
        {counted && skip_first && " (the first of each text does not)"}
      </span>
      <Notes notes={notes} />
    </>
  );
}
