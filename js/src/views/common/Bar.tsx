/** A share of 1 as a bar; the number stands beside it. */
export function Bar({ amount, color }: { amount: number; color?: string | undefined }) {
  const width = `${Math.max(0.4, 100 * amount)}%`;
  return (
    <span class="ll-bar" aria-hidden="true">
      <span style={color ? { width, background: color } : { width }} />
    </span>
  );
}
