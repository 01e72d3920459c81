export const GESTURES = [
  ["Hover a cell", "its top tokens"],
  ["Click a cell or a heading, Enter", "open its top tokens; press one to pin it"],
  ["↳ beside a token, B", "write that token there and go on from it"],
  ["P", "pin the top token of the selected cell"],
  ["Arrow keys", "move the selected cell"],
  ["Home, End", "first, last token (with Ctrl: corner of the table)"],
  ["Page Up, Page Down", "a screenful of rows"],
  ["Drag an edge in the heading", "width of the columns"],
  ["Enter in the text", "write on from it; Shift+Enter starts a new line"],
  ["Esc", "close what is open"],
  ["?", "this list"],
] as const;

export const HELP_NOTE =
  "The stepped line in the table: from there on the top token stays the model’s final answer.";
