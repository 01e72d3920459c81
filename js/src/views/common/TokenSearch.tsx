import { type Signal, useSignal, useSignalEffect } from "@preact/signals";
import { useMemo } from "preact/hooks";
import { TokenText } from "../../marks/TokenText";
import { clamp } from "../../marks/windowing";
import type { Session } from "../../wire/session";
import type { TokenName } from "../../wire/types";

const WAIT = 150;
const LIMIT = 30;
/** Before a token was gone to; the first arrow down goes to the first. */
const NONE = -1;
const NO_KERNEL = "Searching the vocabulary needs a running kernel.";

interface Props {
  session: Session;
  label: string;
  placeholder: string;
  choose: (token: TokenName) => void;
  /** What is written where a text may stand that is not chosen from the list. */
  draft?: Signal<string>;
  /** Enter in such a text. */
  commit?: () => void;
  title?: string;
}

/** A token's leading spaces as ␣: in a field they could not be seen, and they make another token. */
export function marked(text: string): string {
  return text.replace(/^ +/, (spaces) => "␣".repeat(spaces.length));
}

/** What was typed, with its marks as spaces again. */
export function unmarked(text: string): string {
  return text.replace(/^[␣ ]+/, (spaces) => " ".repeat(spaces.length));
}

/** A field that finds tokens of the vocabulary. */
export function TokenSearch(props: Props) {
  const { session, label, placeholder, draft, commit, title } = props;
  const query = useSignal("");
  const at = useSignal(NONE);
  const { found, problem } = useFound(session, query);
  const listId = useMemo(() => `ll-found-${Math.random().toString(36).slice(2, 8)}`, []);
  const live = session.live.value;
  const results = found.value;
  const close = () => {
    query.value = "";
    found.value = null;
  };
  const choose = (token: TokenName) => {
    props.choose(token);
    close();
  };
  const key = (event: KeyboardEvent) => {
    // In a text of its own, Enter takes the text unless a token was gone to.
    const token = results?.[draft ? at.value : Math.max(0, at.value)];
    if (event.key === "Escape") close();
    else if (event.key === "Enter" && token) choose(token);
    else if (event.key === "Enter" && commit) {
      close();
      commit();
    } else if ((event.key === "ArrowDown" || event.key === "ArrowUp") && results) {
      const move = event.key === "ArrowDown" ? 1 : -1;
      at.value = clamp(at.value + move, NONE, results.length - 1);
    } else return;
    event.preventDefault();
    event.stopPropagation();
  };
  return (
    <div class="ll-search">
      <input
        type="text"
        role="combobox"
        aria-autocomplete="list"
        placeholder={placeholder}
        aria-label={label}
        aria-expanded={results !== null}
        aria-controls={listId}
        aria-activedescendant={results?.[at.value] ? `${listId}-${at.value}` : undefined}
        autocomplete="off"
        spellcheck={false}
        disabled={!live}
        title={live ? title : NO_KERNEL}
        value={marked(draft ? draft.value : query.value)}
        onInput={(event) => {
          query.value = unmarked(event.currentTarget.value);
          if (draft) draft.value = query.value;
          at.value = NONE;
        }}
        onBlur={() => draft && close()}
        onKeyDown={key}
      />
      {(results || problem.value) && (
        // A press in the list must not take the focus away, or the list would close under it.
        // biome-ignore lint/a11y/noStaticElementInteractions: it only keeps the focus where it is
        <div class="ll-float ll-found" onMouseDown={(event) => event.preventDefault()}>
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

/** The kernel's answer to what was typed last, a moment after it. */
function useFound(session: Session, query: Signal<string>) {
  const found = useSignal<TokenName[] | null>(null);
  const problem = useSignal("");
  useSignalEffect(() => {
    const text = query.value;
    if (!text || !session.live.value) {
      found.value = null;
      problem.value = "";
      return;
    }
    const controller = new AbortController();
    const timer = setTimeout(() => {
      session.rpc
        .request("search", { query: text, limit: LIMIT }, controller.signal)
        .then(({ result }) => {
          found.value = result as TokenName[];
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
  });
  return { found, problem };
}
