import { type ReadonlySignal, type Signal, useSignal, useSignalEffect } from "@preact/signals";

const NO_KERNEL = "Running it again needs a kernel; this page has none.";
const MOST_LINES = 5;

/** What is typed and not run yet; follows the trait. */
export function useDraft<T>(trait: ReadonlySignal<T>): Signal<T> {
  const draft = useSignal(trait.peek());
  useSignalEffect(() => {
    draft.value = trait.value;
  });
  return draft;
}

interface Props {
  name: string;
  text: string;
  live: boolean;
  write: (text: string) => void;
  run: () => void;
  invalid?: boolean;
}

/** A text that is edited in place: Enter runs it, Shift and Enter starts a new line. */
export function TextField({ name, text, live, write, run, invalid = false }: Props) {
  return (
    <textarea
      rows={Math.min(MOST_LINES, text.split("\n").length)}
      dir="auto"
      aria-label={`${name}. Enter runs it, Shift and Enter starts a new line.`}
      spellcheck={false}
      aria-invalid={invalid}
      readOnly={!live}
      title={live ? undefined : NO_KERNEL}
      value={text}
      onInput={(event) => write(event.currentTarget.value)}
      onKeyDown={(event) => {
        if (event.key !== "Enter" || event.shiftKey || event.isComposing || !live) return;
        event.preventDefault();
        run();
      }}
    />
  );
}

interface RunProps {
  live: boolean;
  title: string;
  run: () => void;
  verb?: string | undefined;
  /** Not where something else is to be pressed first. */
  primary?: boolean;
}

/** The button that runs what the fields hold. */
export function RunButton({ live, title, run, verb = "Run", primary = true }: RunProps) {
  return (
    <button
      type="button"
      class={primary ? "ll-run ll-primary" : "ll-run"}
      disabled={!live}
      title={live ? title : NO_KERNEL}
      onClick={run}
    >
      {verb}
    </button>
  );
}
