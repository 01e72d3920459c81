export const GESTURES = [
  ["Press a head", "show it large; while several are taken together, take it in or out"],
  ["Shift and press a head", "take it together with the one that is shown"],
  ["Double press a head, S", "only this head; once more, all of them"],
  ["Hover a token", "only the lines from it or to it"],
  ["Press a token, Enter", "pin it: its lines stay alone, several together"],
  ["Hover or press a cell", "its weight; a press selects the pair"],
  ["Arrow keys", "move in the heads, the lines or the matrix"],
  ["Home, End, Page Up, Page Down", "the first, the last, a screenful"],
  ["[ and ]", "the layer below and above"],
  ["M", "leave the sinks out, or draw them again"],
  ["Drag an edge in the heading", "size of the matrix"],
  ["Esc", "let go of pins and of the selected pair"],
  ["?", "this list"],
] as const;

export const HELP_NOTE =
  "Each row of the matrix is a query, the token that looks; each column a key, a token it looks at. Grey: it comes later and cannot be seen.";
