import { useSignal } from "@preact/signals";
import { copyText, runnable } from "./exports";
import { useRoot } from "./root";

interface Props {
  /** The call; what it needs is copied with it, so that it runs as it is. */
  code: string;
  setup: string;
  label: string;
  /** Why there is nothing to copy. */
  missing: string;
}

/** A button that copies Python and says so. */
export function CopyCode({ code, setup, label, missing }: Props) {
  const root = useRoot();
  const said = useSignal("");
  const whole = runnable(setup, code);
  const copy = async () => {
    const done = root.current ? await copyText(whole, root.current) : false;
    said.value = done ? "Copied" : "Could not copy";
    setTimeout(() => {
      said.value = "";
    }, 1600);
  };
  return (
    <button type="button" disabled={!code} title={whole || missing} onClick={copy}>
      <span aria-live="polite">{said.value || label}</span>
    </button>
  );
}
