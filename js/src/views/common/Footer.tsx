import type { Check, Status } from "../../wire/types";
import { scientific, seconds, whole } from "./format";
import type { BaseState } from "./state";

/** How far a run is, and the button that ends it. */
export function Progress({ state, stop }: { state: BaseState; stop: string }) {
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
        {stop}
      </button>
    </div>
  );
}

/** "3 of 30 steps"; a corpus is counted in tokens, and says how long it will still take. */
function amount({ done, total, unit, seconds: past }: Status): string {
  if (unit !== "token") return `${done} of ${total} steps`;
  const left = past > 0 && done > 0 ? seconds((past * (total - done)) / done) : "";
  return `${whole(done)} of ${whole(total)} tokens${left && `, ${left} left`}`;
}

/** What went wrong or was stopped, in one sentence, and what is read out. */
export function Outcome({ state }: { state: BaseState }) {
  const status = state.session.traits.status.value;
  const { fault } = state.session;
  return (
    <>
      {status.state === "error" && (
        <p class="ll-error" role="alert">
          {status.message || "The run failed."}
        </p>
      )}
      {status.state === "cancelled" && (
        <p class="ll-note" role="status">
          {status.message || `Cancelled after ${status.done} of ${status.total} steps.`}
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
    </>
  );
}

/** What was verified for this very picture, with its numbers. */
export function Checks({ state, last }: { state: BaseState; last: string }) {
  state.session.version.value;
  const meta = state.meta.value;
  if (!meta) return null;
  const checks = meta.checks ?? [];
  const failed = checks.filter((check) => !check.ok).length;
  const status = state.session.traits.status.value;
  const took = status.state === "done" ? seconds(status.seconds) : "";
  return (
    <details class="ll-checks">
      <summary>
        {checks.length === 0 ? (
          <span class="ll-dim">Checks come with the last {last}</span>
        ) : failed === 0 ? (
          <span class="ll-good">✓ {checks.length} checks passed</span>
        ) : (
          <span class="ll-bad">
            ✗ {failed} of {checks.length} checks failed
          </span>
        )}
        {checks.map((check) => (
          <span key={check.name} class="ll-check-brief">
            <Verdict check={check} /> {check.name}{" "}
            <span class="ll-num ll-dim">{scientific(check.error)}</span>
          </span>
        ))}
        <span class="ll-grow" />
        <span class="ll-dim">{[meta.cost, took].filter(Boolean).join(" · ")}</span>
      </summary>
      <table>
        <thead>
          <tr>
            <th scope="col">check</th>
            <th scope="col">error</th>
            <th scope="col">limit</th>
            <th scope="col">verdict</th>
            <th scope="col">what was compared</th>
          </tr>
        </thead>
        <tbody>
          {checks.map((check) => (
            <tr key={check.name}>
              <th scope="row">{check.name}</th>
              <td class="ll-num">{scientific(check.error)}</td>
              <td class="ll-num">{scientific(check.limit)}</td>
              <td>
                <Verdict check={check} /> {check.ok ? "passed" : "failed"}
              </td>
              <td>{check.what}</td>
            </tr>
          ))}
        </tbody>
      </table>
      {meta.source && <p class="ll-dim">Method: {meta.source}</p>}
    </details>
  );
}

function Verdict({ check }: { check: Check }) {
  return check.ok ? (
    <span class="ll-good" aria-hidden="true">
      ✓
    </span>
  ) : (
    <span class="ll-bad" aria-hidden="true">
      ✗
    </span>
  );
}
