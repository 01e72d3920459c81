import { createContext } from "preact";
import { useContext } from "preact/hooks";

/** The element of the whole view, which floating parts are placed in. */
export const Root = createContext<{ readonly current: HTMLElement | null }>({ current: null });

/** The element of the whole view; only to be used after the first drawing. */
export function useRoot() {
  return useContext(Root);
}
