/** The indices within reach of one that exist. */
export function around(center: number, reach: number, count: number): number[] {
  const out: number[] = [];
  for (let i = center - reach; i <= center + reach; i++) if (i >= 0 && i < count) out.push(i);
  return out;
}
