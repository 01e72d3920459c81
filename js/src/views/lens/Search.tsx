import { useSignal } from "@preact/signals";
import { useEffect, useMemo, useRef } from "preact/hooks";
import { TokenText } from "../../marks/TokenText";
import { clamp } from "../../marks/windowing";
import type { ViewState } from "./state";

interface Found {
  id: number;
  text: string;
}

const WAIT = 150;
const LIMIT = 30;

/** Find any token of the vocabulary and pin it at the selected position. */
export function Search({ state }: { state: ViewState }) {
  const query = useSignal("");
  const found = useSignal<Found[] | null>(null);
  const problem = useSignal("");
  const at = useSignal(0);
  const asked = useRef<AbortController | null>(null);
  const listId = useMemo(() => `ll-found-${Math.random().toString(36).slice(2, 8)}`, []);
  const live = state.session.live.value;
  useEffect(() => {
    const text = query.value;
    asked.current?.abort();
    if (!text || !live) {
      found.value = null;
      problem.value = "";
      return;
    }
    const controller = new AbortController();
    asked.current = controller;
    const timer = setTimeout(() => {
      state.session.rpc
        .request("search", { query: text, limit: LIMIT }, controller.signal)
        .then(({ result }) => {
          found.value = result as Found[];
          at.value = 0;
          problem.value = "";
        })
        .catch((error: Error) => {
          if (error.name !== "AbortError") problem.value = error.message;
        });
    }, WAIT);
    return () => {
      clearTimeout(timer);
      controller.abort();
    };
  }, [query.value, live, state, found, at, problem]);
  const close = () => {
    query.value = "";
    found.value = null;
  };
  const choose = (token: Found) => {
    const store = state.session.store.peek();
    store?.vocab.set(token.id, token.text);
    const pin = { position: state.selected.peek().position, id: token.id };
    if (!state.isPinned(pin)) state.togglePin(pin);
    close();
  };
  const results = found.value;
  return (
    <div class="ll-search">
      <input
        type="text"
        role="combobox"
        aria-autocomplete="list"
        placeholder="Find a token…"
        aria-label="Find a token in the vocabulary and pin it at the selected position"
        aria-expanded={results !== null}
        aria-controls={listId}
        aria-activedescendant={results?.[at.value] ? `${listId}-${at.value}` : undefined}
        autocomplete="off"
        spellcheck={false}
        disabled={!live}
        title={live ? undefined : "Searching the vocabulary needs a running kernel."}
        value={query.value}
        onInput={(event) => {
          query.value = event.currentTarget.value;
        }}
        onKeyDown={(event) => {
          const token = results?.[at.value];
          if (event.key === "Escape") close();
          else if (event.key === "Enter" && token) choose(token);
          else if ((event.key === "ArrowDown" || event.key === "ArrowUp") && results) {
            const step = event.key === "ArrowDown" ? 1 : -1;
            at.value = clamp(at.value + step, 0, Math.max(0, results.length - 1));
          } else return;
          event.preventDefault();
          event.stopPropagation();
        }}
      />
      {(results || problem.value) && (
        <div class="ll-float ll-found">
          {problem.value && <p class="ll-note">{problem.value}</p>}
          {results?.length === 0 && <p class="ll-note">No token of the vocabulary matches.</p>}
          <div role="listbox" id={listId} aria-label="Tokens found">
            {results?.map((token, i) => (
              // biome-ignore lint/a11y/useKeyWithClickEvents: keys are handled by the box above
              <div
                key={token.id}
                id={`${listId}-${i}`}
                role="option"
                tabIndex={-1}
                aria-selected={i === at.value}
                onClick={() => choose(token)}
              >
                <TokenText text={token.text} />
                <span class="ll-num ll-id">{token.id}</span>
              </div>
            ))}
          </div>
        </div>
      )}
    </div>
  );
}
