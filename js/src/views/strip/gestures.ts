export const GESTURES = [
  ["Hover a token", "its number in every row"],
  ["Click a token, or Enter", "look at it, and open what the model says of it where there is more"],
  ["Left, right", "the token before or after"],
  ["Home, End", "the first and the last token"],
  ["Up, down", "the next layer, the one before"],
  ["Escape", "close what a token has opened"],
  ["Enter in a text", "run; Shift+Enter starts a new line"],
  ["?", "this list"],
] as const;
