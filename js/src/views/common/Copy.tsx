import { useSignal } from "@preact/signals";
import { copyText } from "./exports";
import { useRoot } from "./Shell";

interface Props {
  code: string;
  label: string;
  /** Why there is nothing to copy. */
  missing: string;
}

/** A button that copies Python and says so. */
export function CopyCode({ code, label, missing }: Props) {
  const root = useRoot();
  const said = useSignal("");
  const copy = async () => {
    const done = root.current ? await copyText(code, root.current) : false;
    said.value = done ? "Copied" : "Could not copy";
    setTimeout(() => {
      said.value = "";
    }, 1600);
  };
  return (
    <button type="button" disabled={!code} title={code || missing} onClick={copy}>
      <span aria-live="polite">{said.value || label}</span>
    </button>
  );
}
