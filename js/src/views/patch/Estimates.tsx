import type { PatchData } from "./data";
import type { PatchState } from "./state";

/** Below this correlation an estimate does not say which of the strongest cells is stronger. */
const RANKS = 0.7;

/** What is only estimated so far, and how far estimates can be trusted here. */
export function Estimates({ state, data }: { state: PatchState; data: PatchData }) {
  state.session.version.value;
  const words = said(data, state.busy());
  if (!words) return null;
  const { left } = data.agreement();
  return (
    <p class="ll-dim" role="status">
      {left > 0 && <span class="ll-hatched" aria-hidden="true" />}
      {words}
    </p>
  );
}

export function said(data: PatchData, busy: boolean): string {
  const { left, compared, pearson, strongest, alike } = data.agreement();
  const { no_estimate } = data.meta;
  if (left + compared === 0) return no_estimate ? `No estimate first: ${no_estimate}.` : "";
  const known = compared === 1 ? "1 cell" : `${compared} cells`;
  const warning = strongest < RANKS ? ": do not rank these by it" : "";
  const few = Number.isNaN(strongest)
    ? ""
    : ` (${decimal(strongest)} among the strongest tenth${warning})`;
  const among = alike
    ? " (the strongest tenth hardly differ, so there is no order among them to tell)"
    : few;
  const so = Number.isNaN(pearson)
    ? ""
    : `, correlation ${decimal(pearson)} with the true values of ${known}${among}`;
  if (left === 0) return compared > 0 && so ? `First estimated by attribution patching${so}.` : "";
  const cells = left === 1 ? "1 cell is an estimate" : `${left} cells are estimates`;
  const far = busy ? " so far" : "";
  return `Hatched, ≈: ${cells} by attribution patching${so && so + far}.`;
}

function decimal(value: number): string {
  return value.toFixed(2).replace("-", "−");
}
