export const GESTURES = [
  ["A number, Enter", "the page of that feature; arrow keys go to its neighbours in number"],
  ["A token in “Find”", "features that are on at it, and features that raise it"],
  ["Press a feature’s number", "its page"],
  ["Open, beside an example", "its whole text, and the next token without the feature"],
  ["Move the slider", "a text with so much of the feature added"],
  ["Write under “What it means”", "kept in the notebook; all of it can be saved as JSON"],
  ["Escape", "close what was opened"],
  ["Enter in a text", "run; Shift+Enter starts a new line"],
  ["?", "this list"],
] as const;
