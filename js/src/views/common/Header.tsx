import { useSignal } from "@preact/signals";
import type { ThemeChoice } from "../../wire/types";
import { CopyCode } from "./Copy";
import { download, FORMATS, type Format, save } from "./exports";
import { holdsPage, pageOf } from "./page";
import { useRoot } from "./root";
import type { BaseState } from "./state";

interface Props {
  state: BaseState;
  /** The name of the view where the user gave none. */
  name: string;
}

/** What is looked at, and what can be taken away. */
export function Header({ state, name }: Props) {
  const { session } = state;
  const meta = state.meta.value;
  const title = session.traits.title.value || name;
  state.session.version.value;
  return (
    <header class="ll-header">
      <h2 title={meta?.question}>{title}</h2>
      {meta && (
        <span class="ll-dim ll-facts" title={meta.model && `${meta.model} (${meta.model_type})`}>
          {/* Numbers that no model of ours made have neither name nor dtype. */}
          {meta.model && <b>{meta.model}</b>}
          {meta.model && " · "}
          {meta.n_layers} layers{meta.dtype && ` · ${meta.dtype}`}
        </span>
      )}
      <span class="ll-grow" />
      <CopyCode
        code={meta?.code ?? ""}
        setup={meta?.setup ?? ""}
        label="Copy as Python"
        missing="Nothing has been run yet."
      />
      <Exports state={state} title={title} />
      <select
        aria-label="Theme"
        title="Theme"
        value={session.traits.theme.value}
        onChange={(event) => session.write({ theme: event.currentTarget.value as ThemeChoice })}
      >
        <option value="auto">Theme: auto</option>
        <option value="light">Light</option>
        <option value="dark">Dark</option>
      </select>
      <button
        type="button"
        class="ll-icon ll-help-button"
        aria-label="Keys and gestures"
        title="Keys and gestures (?)"
        aria-expanded={state.help.value}
        onClick={() => {
          state.help.value = !state.help.peek();
        }}
      >
        ?
      </button>
    </header>
  );
}

function Exports({ state, title }: { state: BaseState; title: string }) {
  const root = useRoot();
  const busy = useSignal<Format | null>(null);
  const { session } = state;
  const live = session.live.value;
  // The page of a view whose kernel is gone is made here; an exported page is one already.
  const held = !live && session.traits.live.value && holdsPage(session);
  const take = async (format: Format) => {
    if (!root.current) return;
    busy.value = format;
    session.fault.value = "";
    try {
      const dark = state.palette.peek().name === "dark";
      if (live) await download(session, format, dark, root.current);
      else save(pageOf(session, title), "layerlens.html", "text/html", root.current);
    } catch (error) {
      session.fault.value = `The ${format.toUpperCase()} file could not be made. ${(error as Error).message}`;
    }
    busy.value = null;
  };
  return (
    <fieldset class="ll-switch" aria-label="Export">
      {FORMATS.map((format) => {
        const can = live || (held && format === "html");
        return (
          <button
            type="button"
            key={format}
            disabled={!can || !state.meta.value || busy.value !== null}
            aria-busy={busy.value === format}
            title={
              can
                ? format === "csv"
                  ? "Save all numbers of the picture as CSV"
                  : `Save the picture as it is set here as ${format.toUpperCase()}`
                : `Making a file needs a running kernel; ${
                    session.traits.live.value
                      ? "run the cell of this view again."
                      : "this page is itself an export."
                  }`
            }
            onClick={() => void take(format)}
          >
            {busy.value === format ? "…" : format.toUpperCase()}
          </button>
        );
      })}
    </fieldset>
  );
}
