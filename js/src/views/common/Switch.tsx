export interface Choice<V> {
  value: V;
  label: string;
  title?: string;
  /** Why it cannot be chosen; absent when it can. */
  missing?: string | undefined;
}

interface Props<V> {
  label: string;
  choices: readonly Choice<V>[];
  value: V;
  choose: (value: V) => void;
}

/** One of a few, as buttons side by side. */
export function Switch<V extends string | boolean>({ label, choices, value, choose }: Props<V>) {
  return (
    <fieldset class="ll-switch" aria-label={label}>
      {choices.map((choice) => (
        <button
          type="button"
          key={String(choice.value)}
          aria-pressed={choice.value === value}
          disabled={choice.missing !== undefined}
          title={choice.missing ?? choice.title}
          onClick={() => choose(choice.value)}
        >
          {choice.label}
        </button>
      ))}
    </fieldset>
  );
}
