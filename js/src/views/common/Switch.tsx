import type { BaseState } from "./state";
import { useExplain } from "./Term";

export interface Choice<V> {
  value: V;
  label: string;
  title?: string;
  /** Why it cannot be chosen; absent when it can. */
  missing?: string | undefined;
}

interface Props<V> {
  /** The view whose terms the labels may be; they say what they mean. */
  state?: BaseState;
  label: string;
  choices: readonly Choice<V>[];
  value: V;
  choose: (value: V) => void;
}

/** One of a few, as buttons side by side. */
export function Switch<V extends string | boolean>(props: Props<V>) {
  const { state, label, choices, value, choose } = props;
  return (
    <fieldset class="ll-switch" aria-label={label}>
      {choices.map((choice) => (
        <Press
          key={String(choice.value)}
          state={state}
          choice={choice}
          pressed={choice.value === value}
          press={() => choose(choice.value)}
        />
      ))}
    </fieldset>
  );
}

interface PressProps<V> {
  state: BaseState | undefined;
  choice: Choice<V>;
  pressed: boolean;
  press: () => void;
}

function Press<V>({ state, choice, pressed, press }: PressProps<V>) {
  const { label, title, missing } = choice;
  const said = useExplain(state)(label, missing ?? title);
  return (
    <button
      type="button"
      aria-pressed={pressed}
      disabled={missing !== undefined}
      // What explains the label says this too.
      title={said.onFocus ? undefined : (missing ?? title)}
      onClick={press}
      {...said}
    >
      {label}
    </button>
  );
}
