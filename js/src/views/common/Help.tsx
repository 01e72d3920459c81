import { Part } from "./Part";
import type { BaseState } from "./state";

interface Props {
  state: BaseState;
  /** What one does, and what it brings. */
  gestures: readonly (readonly [string, string])[];
  note: string;
}

/** Every gesture and its key. */
export function Help({ state, gestures, note }: Props) {
  if (!state.help.value) return null;
  return (
    <Part class="ll-help" aria-label="Keys and gestures">
      <dl>
        {gestures.map(([gesture, effect]) => (
          <div key={gesture}>
            <dt>{gesture}</dt>
            <dd>{effect}</dd>
          </div>
        ))}
      </dl>
      <p class="ll-dim">{note}</p>
    </Part>
  );
}
