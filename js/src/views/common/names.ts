/** Names of the views of this page; each kind of view is a module of its own, so it is kept here. */
const KEY = Symbol.for("layerlens.names");
const page = globalThis as unknown as Record<symbol, Set<string> | undefined>;

/** A name that no other view of the page has until it is given back: landmarks are told by it. */
export function takeName(name: string): { own: string; giveBack: () => void } {
  page[KEY] ??= new Set();
  const taken = page[KEY];
  let own = name;
  for (let number = 2; taken.has(own); number++) own = `${name} ${number}`;
  taken.add(own);
  return { own, giveBack: () => taken.delete(own) };
}
