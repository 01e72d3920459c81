export const GESTURES = [
  ["Hover a chart or a grid", "read that layer out in every part of the view"],
  ["Click a chart", "select that layer; linked views follow"],
  ["Arrow keys", "the layer before or after, in the charts and in the grid"],
  ["Home, End", "first, last layer"],
  ["Press a name in a legend", "draw that curve or not"],
  ["⤢", "show one chart large"],
  ["M, Metrics", "the list of metrics: type to search, arrows move, Enter adds or takes away"],
  ["Click a cell", "select that layer, and that head"],
  ["Enter in a text", "measure; Shift+Enter starts a new line"],
  ["?", "this list"],
] as const;

export const HELP_NOTE =
  "Layer 5 of a curve of states is the state after block 5; “embed” is the state before the first block. The shaded band is the 95 % interval over texts.";
