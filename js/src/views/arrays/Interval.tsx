import { compact, type Ends } from "../../marks/numbers";

/** The two ends of a number's interval, where it has one. */
export function Interval({ ends }: { ends: Ends | null }) {
  if (!ends) return null;
  return (
    <span class="ll-dim" title="95 % interval">
      {` ${inBrackets(ends)}`}
    </span>
  );
}

export function inBrackets({ low, high }: Ends): string {
  return `[${compact(low, 3)}, ${compact(high, 3)}]`;
}
