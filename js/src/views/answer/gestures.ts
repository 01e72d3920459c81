export const GESTURES = [
  ["Hover a chart or a grid", "read that place out in every part of the view"],
  ["Click a chart, or Enter", "select that layer or entry, and open it where there is more"],
  ["Click a cell, or Enter", "select it, and open what it is made of where there is more"],
  ["Arrow keys", "the layer before or after; in the grid the cell beside"],
  ["Home, End", "first, last"],
  ["Press a name in a legend", "draw that curve or not; twice: only that one, or all"],
  ["⊞", "draw each curve of a chart in one of its own"],
  ["⤢", "show one chart large"],
  ["Escape", "close what a cell has opened"],
  ["Enter in a text", "run; Shift+Enter starts a new line"],
  ["?", "this list"],
] as const;

export const HELP_NOTE =
  "Words with a dotted line say what they mean when the pointer rests on them, or when they are in focus.";
