import type { Check, Status } from "../../wire/types";
import { roughly, scientific, seconds, whole } from "./format";
import type { BaseState } from "./state";

/** How far a run is, and the button that ends it. */
export function Progress({ state, verb = "Cancel" }: { state: BaseState; verb?: string }) {
  const { session } = state;
  const status = session.traits.status.value;
  if (!state.busy()) return null;
  const queued = status.state === "queued";
  return (
    <div class="ll-progress">
      <progress
        max={Math.max(1, status.total)}
        value={queued ? undefined : status.done}
        aria-label="Progress of the run"
      />
      <span class="ll-num" role="status" aria-live="polite">
        {queued ? status.message || "Waiting for the model…" : amount(status)}
        {status.what && <span class="ll-dim"> · {status.what.replace("_", " ")}</span>}
      </span>
      <button type="button" onClick={() => session.cancel()}>
        {verb}
      </button>
    </div>
  );
}

/** A run that is over sooner needs no word of how long it takes. */
const SHORT = 3;

/** "3 of 30 steps", tokens of a corpus; and, where it takes longer, how long it still will. */
export function amount({ done, total, unit, seconds: past }: Status): string {
  const lasts = past > 0 && done > 0 ? (past * total) / done : 0;
  const left = lasts > SHORT ? roughly((lasts * (total - done)) / total) : "";
  const what = unit === "token" ? "tokens" : "steps";
  return `${whole(done)} of ${whole(total)} ${what}${left && `, about ${left} left`}`;
}

/** What went wrong or was cancelled, in one sentence, and what is read out; stands by the prompt. */
export function Outcome({ state }: { state: BaseState }) {
  const status = state.session.traits.status.value;
  const { fault } = state.session;
  return (
    <div class="ll-status">
      {status.state === "error" && (
        <p class="ll-error" role="alert">
          {status.message || "The run failed."}
        </p>
      )}
      {status.state === "cancelled" && (
        <p class="ll-note" role="status">
          {status.message || ended(status)}
        </p>
      )}
      {fault.value && (
        <p class="ll-error" role="alert">
          {fault.value}
        </p>
      )}
      <span class="ll-offscreen" role="status" aria-live="polite">
        {state.announced.value}
      </span>
    </div>
  );
}

function ended({ done, total }: Status): string {
  return done > 0
    ? `Cancelled after ${done} of ${total} steps.`
    : "Cancelled before the first step.";
}

/** What was verified for this very picture, and what it took; each opens on demand. */
export function Checks({ state, last }: { state: BaseState; last: string }) {
  state.session.version.value;
  const meta = state.meta.value;
  if (!meta) return null;
  const { checks, cost, source } = meta;
  const status = state.session.traits.status.value;
  const took = status.state === "done" ? seconds(status.seconds) : "";
  return (
    <footer class={state.outdated.value ? "ll-foot ll-old" : "ll-foot"}>
      {checks?.length ? (
        <Verified checks={checks} />
      ) : (
        status.state !== "done" && <span class="ll-dim">Checks come with the last {last}</span>
      )}
      {(cost || source) && (
        <details class="ll-how">
          <summary>How?</summary>
          {cost && <p>Cost: {cost}.</p>}
          {took && <p>This run took {took}.</p>}
          {source && <p>Method: {source}</p>}
        </details>
      )}
    </footer>
  );
}

function Verified({ checks }: { checks: readonly Check[] }) {
  const failed = checks.filter((check) => !check.ok).length;
  const counted = `${checks.length} ${checks.length === 1 ? "check" : "checks"}`;
  return (
    <details class="ll-checks">
      <summary>
        {failed === 0 ? (
          <span class="ll-good">✓ {counted} passed</span>
        ) : (
          <span class="ll-bad">
            ✗ {failed} of {counted} failed
          </span>
        )}
      </summary>
      <table>
        <caption>
          Numbers of this picture, computed a second way. They may differ by rounding alone.
        </caption>
        <thead>
          <tr>
            <th scope="col">what was compared</th>
            <th scope="col">differs by</th>
            <th scope="col">may differ by</th>
            <th scope="col">result</th>
          </tr>
        </thead>
        <tbody>
          {checks.map((check) => (
            <tr key={check.name}>
              <th scope="row">
                {check.what || check.name} <span class="ll-dim">({check.name})</span>
              </th>
              <td class="ll-num">{scientific(check.error)}</td>
              <td class="ll-num">{scientific(check.limit)}</td>
              <td class={check.ok ? "ll-good" : "ll-bad"}>{check.ok ? "✓ passed" : "✗ failed"}</td>
            </tr>
          ))}
        </tbody>
      </table>
    </details>
  );
}
