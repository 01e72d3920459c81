import { useFloating } from "./floating";
import { useRoot } from "./root";
import type { BaseState } from "./state";

interface Props {
  state: BaseState;
  text: string;
}

/** A text whose words of art say what they mean, under the pointer and in focus. */
export function Terms({ state, text }: Props) {
  return (
    <>
      {wordsOf(text, state.terms()).map((part, i) =>
        part.term ? (
          // The place is the identity: a word may occur twice.
          <Term key={i} state={state} term={part.term} text={part.text} />
        ) : (
          part.text
        ),
      )}
    </>
  );
}

function Term({ state, term, text }: Props & { term: string }) {
  const explain = useExplain(state);
  return (
    // biome-ignore lint/a11y/noNoninteractiveTabindex: the keyboard reaches the definition too
    <dfn class="ll-term" tabIndex={0} {...explain(term)}>
      {text}
    </dfn>
  );
}

interface Explained {
  "aria-description"?: string | undefined;
  onPointerEnter?: (event: Shown) => void;
  onPointerLeave?: () => void;
  onFocus?: (event: Shown) => void;
  onBlur?: () => void;
}

interface Shown {
  currentTarget: HTMLElement;
}

/** What makes an element show what a term means; nothing where no one says it. */
export function useExplain(
  state: BaseState | undefined,
): (name: string, note?: string) => Explained {
  const root = useRoot();
  const terms = state?.terms() ?? {};
  return (name, note = "") => {
    const term = termOf(name, Object.keys(terms));
    if (!state || !term) return {};
    const show = ({ currentTarget }: Shown) => {
      if (!root.current) return;
      const inner = currentTarget.getBoundingClientRect();
      const outer = root.current.getBoundingClientRect();
      const [x, y] = [inner.left - outer.left, inner.bottom - outer.top];
      state.defined.value = { term, note, x, y, height: inner.height };
    };
    const hide = () => {
      state.defined.value = null;
    };
    return {
      "aria-description": terms[term],
      onPointerEnter: show,
      onPointerLeave: hide,
      onFocus: show,
      onBlur: hide,
    };
  };
}

/** What the term under the pointer means. */
export function Definition({ state }: { state: BaseState }) {
  const { value: at } = state.defined;
  const box = useFloating(at);
  if (!at) return null;
  return (
    <div class="ll-float ll-preview ll-definition" ref={box} role="tooltip">
      <p>
        <b>{at.term}</b> {state.terms()[at.term]}
      </p>
      {at.note && <p class="ll-dim">{at.note}</p>}
    </div>
  );
}

export interface Part {
  text: string;
  /** The term that the text is; absent between terms. */
  term?: string;
}

/** A text in parts, each term apart; the longest of those that begin at one place counts. */
export function wordsOf(text: string, terms: Readonly<Record<string, string>>): Part[] {
  const names = Object.keys(terms).sort((a, b) => b.length - a.length);
  if (!text || names.length === 0) return text ? [{ text }] : [];
  const escaped = names.map((name) => name.replace(/[.*+?^${}()|[\]\\]/g, "\\$&"));
  // A plural is the same word.
  const pattern = new RegExp(
    `(?<![\\p{L}\\p{N}_])(${escaped.join("|")})(s?)(?![\\p{L}\\p{N}_])`,
    "giu",
  );
  const parts: Part[] = [];
  let end = 0;
  for (const found of text.matchAll(pattern)) {
    const term = termOf(found[1] as string, names);
    if (!term) continue;
    if (found.index > end) parts.push({ text: text.slice(end, found.index) });
    parts.push({ text: found[0], term });
    end = found.index + found[0].length;
  }
  if (end < text.length) parts.push({ text: text.slice(end) });
  return parts;
}

/** One letter means something only as it is written: "v" is no "V". */
function termOf(word: string, names: readonly string[]): string | undefined {
  const same = names.find((name) => name === word);
  if (same || word.length < 2) return same;
  return names.find((name) => name.toLowerCase() === word.toLowerCase());
}
