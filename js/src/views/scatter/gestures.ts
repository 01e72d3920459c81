export const GESTURES = [
  ["Hover a mark", "what it is, and where"],
  ["Click a mark, or Escape", "look at it through all layers, or at none"],
  ["Left, right", "the mark before or after it, in the order of the texts"],
  ["Home, End", "the first and the last mark"],
  ["Up, down", "the next layer, the one before"],
  ["Click a label", "hide its marks; twice: only these, or all"],
  ["Enter in a text", "run; Shift+Enter starts a new line"],
  ["?", "this list"],
] as const;
