export const GESTURES = [
  ["Hover a node", "its links alone, and what it is"],
  ["Click a node, or Space", "choose it: what enters and what leaves it is listed"],
  ["Enter", "open what the kernel knows of the node, where there is more"],
  ["Arrow keys", "the node beside, or in the row above or below"],
  ["i, o", "the node with the strongest link that enters, that leaves"],
  ["p", "pin the node: it stays, whatever its influence"],
  ["Escape", "close what was opened, then choose no node"],
  ["Enter in a text", "run; Shift+Enter starts a new line"],
  ["?", "this list"],
] as const;
