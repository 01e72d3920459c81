// biome-ignore-all lint/a11y/useSemanticElements: a select cannot say what each of its entries means
// biome-ignore-all lint/a11y/useFocusableInteractive: the field has the focus, as in every combobox
import { useSignal } from "@preact/signals";
import { useEffect, useMemo, useRef } from "preact/hooks";
import { clamp } from "../../marks/windowing";
import type { CatalogueEntry } from "../../wire/metrics";
import { unitName } from "../arrays/data";
import { Part } from "../common/Part";
import { useRoot } from "../common/root";
import { axesName, found } from "./catalogue";
import type { MetricsState } from "./state";

const NO_KERNEL = "Measuring something else needs a running kernel; this page has none.";

/** All metrics to choose from, searched by typing, and what the one that is gone to means. */
export function Picker({ state }: { state: MetricsState }) {
  const query = useSignal("");
  const at = useSignal(0);
  const field = useRef<HTMLInputElement>(null);
  const root = useRoot();
  const list = useMemo(() => `ll-metrics-${Math.random().toString(36).slice(2, 8)}`, []);
  const entries = found(state.session.traits.catalogue.value, query.value);
  const index = clamp(at.value, 0, Math.max(0, entries.length - 1));
  const entry = entries[index];
  useEffect(() => field.current?.focus({ preventScroll: true }), []);
  useEffect(() => {
    const page = field.current?.getRootNode() as Document | ShadowRoot | undefined;
    // Only the list may scroll, never the page.
    const option = page?.getElementById(`${list}-${index}`);
    const box = option?.parentElement?.closest<HTMLElement>(".ll-options");
    if (option && box) keepInSight(option, box);
  }, [index, list]);
  const close = () => {
    state.picking.value = false;
    root.current?.querySelector<HTMLElement>(".ll-pick")?.focus({ preventScroll: true });
  };
  const toggle = (chosen: CatalogueEntry | undefined) => {
    if (chosen && !chosen.why) state.toggleMetric(chosen.name);
  };
  const key = (event: KeyboardEvent) => {
    const moves: Record<string, number> = { ArrowDown: 1, ArrowUp: -1, PageDown: 8, PageUp: -8 };
    const move = moves[event.key];
    if (move !== undefined) at.value = clamp(index + move, 0, Math.max(0, entries.length - 1));
    else if (event.key === "Enter") toggle(entry);
    else if (event.key === "Escape") close();
    else return;
    event.preventDefault();
    event.stopPropagation();
  };
  return (
    <Part class="ll-picker" aria-label="Metrics to choose from">
      <div class="ll-options-side">
        <div class="ll-picker-head">
          <input
            ref={field}
            type="text"
            role="combobox"
            aria-label="Search metrics. Enter adds the one that is gone to, or takes it away."
            aria-autocomplete="list"
            aria-expanded="true"
            aria-controls={list}
            aria-activedescendant={entry ? `${list}-${index}` : undefined}
            placeholder="Search by name, question, unit, author…"
            autocomplete="off"
            spellcheck={false}
            value={query.value}
            onInput={(event) => {
              query.value = event.currentTarget.value;
              at.value = 0;
            }}
            onKeyDown={key}
          />
          <button
            type="button"
            disabled={!state.session.live.value}
            title={state.session.live.value ? "The set that is measured by itself" : NO_KERNEL}
            onClick={() => state.session.put({ metrics: [] })}
          >
            Default set
          </button>
        </div>
        <Options
          state={state}
          entries={entries}
          index={index}
          list={list}
          go={(i) => {
            at.value = i;
          }}
          toggle={toggle}
        />
      </div>
      {entry && <Details state={state} entry={entry} toggle={toggle} />}
      <button
        type="button"
        class="ll-icon ll-close"
        aria-label="Close the list of metrics"
        title="Close (Esc)"
        onClick={close}
      >
        ✕
      </button>
    </Part>
  );
}

function keepInSight(option: HTMLElement, box: HTMLElement): void {
  const [inner, outer] = [option.getBoundingClientRect(), box.getBoundingClientRect()];
  // Room for the heading of the family above.
  if (inner.top < outer.top + 24) box.scrollTop -= outer.top + 24 - inner.top;
  else if (inner.bottom > outer.bottom) box.scrollTop += inner.bottom - outer.bottom;
}

interface OptionsProps {
  state: MetricsState;
  entries: readonly CatalogueEntry[];
  index: number;
  list: string;
  go: (index: number) => void;
  toggle: (entry: CatalogueEntry) => void;
}

function Options({ state, entries, index, list, go, toggle }: OptionsProps) {
  const chosen = state.chosen();
  const families = [...new Set(entries.map(({ family }) => family))];
  return (
    <div
      class="ll-options"
      role="listbox"
      id={list}
      aria-label="Metrics"
      aria-multiselectable="true"
    >
      {entries.length === 0 && <p class="ll-note">No metric has all these words.</p>}
      {families.map((family) => (
        <div key={family} role="group" aria-label={family}>
          <p class="ll-family" aria-hidden="true">
            {family}
          </p>
          {entries.map((entry, i) =>
            entry.family === family ? (
              // biome-ignore lint/a11y/useKeyWithClickEvents: keys are handled by the field above
              <div
                key={entry.name}
                id={`${list}-${i}`}
                role="option"
                class={i === index ? "ll-active" : ""}
                aria-selected={chosen.includes(entry.name)}
                aria-disabled={entry.why !== ""}
                title={entry.why || entry.question}
                // A press must not take the focus from the field.
                onMouseDown={(event) => event.preventDefault()}
                onClick={() => {
                  go(i);
                  toggle(entry);
                }}
              >
                <span class="ll-tick" aria-hidden="true">
                  {chosen.includes(entry.name) ? "✓" : ""}
                </span>
                <span class="ll-option-name">{entry.name.replaceAll("_", " ")}</span>
                <span class="ll-dim">{axesName(entry.axes)}</span>
              </div>
            ) : null,
          )}
        </div>
      ))}
    </div>
  );
}

interface DetailsProps {
  state: MetricsState;
  entry: CatalogueEntry;
  toggle: (entry: CatalogueEntry) => void;
}

/** What a metric means, its formula, its unit and where it comes from. */
function Details({ state, entry, toggle }: DetailsProps) {
  const chosen = state.chosen().includes(entry.name);
  const live = state.session.live.value;
  return (
    <div class="ll-details">
      <h4>
        <code>{entry.name}</code>
      </h4>
      <p>{entry.question}</p>
      <dl>
        <dt>formula</dt>
        <dd class="ll-formula">{entry.formula}</dd>
        <dt>unit</dt>
        <dd>{unitName(entry.units) || "none"}</dd>
        <dt>one number</dt>
        <dd>{axesName(entry.axes).replace("one number", "for the whole model")}</dd>
        <dt>cost</dt>
        <dd>{entry.cost}</dd>
        <dt>source</dt>
        <dd>{entry.source}</dd>
      </dl>
      {entry.why && <p class="ll-bad">{entry.why}</p>}
      <button
        type="button"
        class={chosen ? "" : "ll-primary"}
        disabled={!live || entry.why !== ""}
        title={live ? undefined : NO_KERNEL}
        onClick={() => toggle(entry)}
      >
        {chosen ? "Take away" : "Add"}
      </button>
    </div>
  );
}
