import type { Signal } from "@preact/signals";
import { whole } from "./format";

/** The link that shows all of a long list, and folds it again. */
export function More({ all, count }: { all: Signal<boolean>; count: number }) {
  return (
    <button
      type="button"
      class="ll-link"
      aria-expanded={all.value}
      onClick={() => {
        all.value = !all.value;
      }}
    >
      {all.value ? "Show fewer" : `Show all ${whole(count)}`}
    </button>
  );
}
