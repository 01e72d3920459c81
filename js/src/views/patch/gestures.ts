export const GESTURES = [
  ["Click a cell, Enter", "run its patch; see the next token before and after"],
  ["Drag to another cell", "put the value of the first place into the second"],
  ["Enter, arrows, Enter", "the same by keyboard; Enter twice patches in place"],
  ["A", "add the selected cell’s own patch to the list"],
  ["Arrow keys", "move the selected cell"],
  ["Home, End", "first, last column (with Ctrl: corner of the grid)"],
  ["Page Up, Page Down", "a screenful of layers"],
  ["Ctrl+Z, Ctrl+Shift+Z", "undo, redo a change of the list"],
  ["Click a heading", "select that position or layer"],
  ["Drag an edge in the heading", "width of the columns"],
  ["Enter in a prompt", "run both"],
  ["Esc", "let go of the source; close what is open"],
  ["?", "this list"],
] as const;

export const HELP_NOTE =
  "Recovered: 0 where the patch changes nothing, 1 where it brings the whole difference between the two runs. A change can only reach later layers, at its own position and after it.";
