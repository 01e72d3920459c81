import type { AttentionState } from "./state";

/** Keys that mean the same in every part of the view; whether this was one. */
export function rootKey(event: KeyboardEvent, state: AttentionState): boolean {
  if (event.ctrlKey || event.metaKey || event.altKey) return false;
  const act = actions(state)[event.key];
  if (!act?.()) return false;
  event.preventDefault();
  event.stopPropagation();
  return true;
}

function actions(state: AttentionState): Readonly<Record<string, () => boolean>> {
  const step = (by: number) => () => {
    state.goLayer(state.layerIndex.peek() + by);
    return true;
  };
  return {
    "[": step(-1),
    "]": step(1),
    "?": () => {
      state.help.value = !state.help.peek();
      return true;
    },
    m: () => {
      state.session.write({ mask_sinks: !state.session.traits.mask_sinks.peek() });
      return true;
    },
    Escape: () => state.clear(),
  };
}
