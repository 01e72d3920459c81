import { save } from "../common/exports";
import { Part } from "../common/Part";
import { useRoot } from "../common/root";
import type { FeatureState } from "./state";

/** Where a person writes what the feature means; it stays in the notebook and can be taken away. */
export function Meaning({ state }: { state: FeatureState }) {
  const root = useRoot();
  const count = Object.keys(state.own.traits.meanings.value).length;
  const number = state.number();
  const take = () => {
    if (!root.current) return;
    save(state.meaningsFile(), "meanings.json", "application/json", root.current);
  };
  return (
    <Part class="ll-feature-meaning" aria-label="What it means">
      <label>
        <span class="ll-feature-name">What it means</span>
        <textarea
          rows={1}
          dir="auto"
          placeholder="Read the examples of every strength, then write it down…"
          aria-label={`What feature ${number} means`}
          value={state.meaning()}
          onInput={(event) => state.writeMeaning(event.currentTarget.value)}
        />
      </label>
      <button
        type="button"
        disabled={count === 0}
        title="Save what was written of all features; FeatureView(meanings=…) reads it"
        onClick={take}
      >
        Save as JSON
      </button>
      <span class="ll-dim ll-num">
        {count} {count === 1 ? "feature" : "features"} written about
      </span>
    </Part>
  );
}
