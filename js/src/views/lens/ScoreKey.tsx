import { Swatch } from "../common/Swatch";
import { Terms } from "../common/Term";
import { guesses, scoreWords } from "./scores";
import type { ViewState } from "./state";

/** What the curves beside the rows are, with their numbers in the row that is looked at. */
export function ScoreKey({ state }: { state: ViewState }) {
  const scores = state.scores.value;
  const data = state.data.value;
  if (!data || scores.length === 0) return null;
  const { point } = state.selected.value;
  const dotted = guesses(scores).map(kl).join(" and ");
  return (
    <ul class="ll-lines ll-scores" aria-label="How well each lens does in this row">
      {scores.map((score) => (
        <li key={score.name}>
          <Swatch style={score.style} />
          <span>{score.name}</span>
          <span class="ll-dim">
            <Terms state={state} text={scoreWords(score)} />
          </span>
          <span class="ll-num">{kl(score.values[point])}</span>
        </li>
      ))}
      {dotted && (
        <li class="ll-dim">
          <span>
            <Terms
              state={state}
              text={`dotted: a uniform guess, ${dotted} nats; rows that do worse are hatched`}
            />
          </span>
        </li>
      )}
    </ul>
  );
}

function kl(value: number | undefined): string {
  return value === undefined || Number.isNaN(value) ? "–" : value.toFixed(2);
}
