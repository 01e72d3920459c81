/** Which tokens of two prompts belong together. */

export type Link = readonly [clean: number, corrupt: number];
export type Row = "clean" | "corrupt";
export const ROWS = ["clean", "corrupt"] as const;

/** A column of both prompts: a pair, or a token that belongs to none. */
export type Column = readonly [clean: number | null, corrupt: number | null];

/** The pairs that a run was made with. */
export function linksOf(partners: readonly (number | null)[], patched: Row): Link[] {
  return partners.flatMap((there, here): Link[] => {
    if (there === null) return [];
    return [patched === "clean" ? [here, there] : [there, here]];
  });
}

/** All tokens in columns, in the order of the clean prompt; what belongs to none stands alone. */
export function columnsOf(links: readonly Link[], clean: number, corrupt: number): Column[] {
  const partner = new Map(links);
  const taken = new Set(links.map(([, k]) => k));
  const columns: Column[] = [];
  let next = 0;
  const alone = (end: number) => {
    for (; next < end; next++) if (!taken.has(next)) columns.push([null, next]);
  };
  for (let c = 0; c < clean; c++) {
    const k = partner.get(c);
    if (k !== undefined) alone(k);
    columns.push([c, k ?? null]);
  }
  alone(corrupt);
  return columns;
}

/** With two tokens together; what either belonged to before is alone then. */
export function linked(links: readonly Link[], link: Link): Link[] {
  const others = links.filter(([c, k]) => c !== link[0] && k !== link[1]);
  return [...others, link].sort(([a], [b]) => a - b);
}

/** With one token alone. */
export function unlinked(links: readonly Link[], row: Row, position: number): Link[] {
  return links.filter((link) => link[ROWS.indexOf(row)] !== position);
}
