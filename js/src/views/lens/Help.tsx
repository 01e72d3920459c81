import type { ViewState } from "./state";

const GESTURES: [string, string][] = [
  ["Hover a cell", "its top tokens"],
  ["Click a cell, Enter", "open its top tokens; press one to pin it"],
  ["P", "pin the top token of the selected cell"],
  ["Arrow keys", "move the selected cell"],
  ["Home, End", "first, last column (with Ctrl: corner of the table)"],
  ["Page Up, Page Down", "a screenful of rows"],
  ["Click a heading", "select that token or row"],
  ["Drag an edge in the heading", "width of the columns"],
  ["Enter in the prompt", "run it; Shift+Enter starts a new line"],
  ["Esc", "close what is open"],
  ["?", "this list"],
];

/** Every gesture and its key. */
export function Help({ state }: { state: ViewState }) {
  if (!state.help.value) return null;
  return (
    <section class="ll-help" aria-label="Keys and gestures">
      <dl>
        {GESTURES.map(([gesture, effect]) => (
          <div key={gesture}>
            <dt>{gesture}</dt>
            <dd>{effect}</dd>
          </div>
        ))}
      </dl>
      <p class="ll-dim">
        The stepped line in the table: from there on the top token stays the model’s final answer.
      </p>
    </section>
  );
}
