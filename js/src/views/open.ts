import type { ReadonlySignal } from "@preact/signals";
import type { VNode } from "preact";

/** One widget's model, opened: a session that any number of elements can show. */
export interface OpenView {
  /** Made once for each element that shows it. */
  element(dark: ReadonlySignal<boolean>): VNode;
  /** Ctrl and Meta keys that the view needs itself; the others are the notebook's. */
  keeps?: (event: KeyboardEvent) => boolean;
  /** Told what shows other widgets inside this one, where the page has such a thing. */
  hosted?: (host: unknown) => void;
  /** The class of the picture in the notebook's file, which the view takes the place of. */
  kept?: string;
  dispose(): void;
}
