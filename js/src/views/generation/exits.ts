/** What a rule asks of the numbers of one token. */
export interface Scored {
  readonly meta: {
    readonly d_vocab: number;
    readonly states: readonly boolean[];
    readonly layers: readonly number[];
  };
  probability(point: number, step: number): number;
  number(name: string, point: number, step: number): number;
  topId(point: number, step: number): number;
}

/** As `layerlens/analyses/lenses/exits.py`: the score of each point that is a state. */
export function scores(data: Scored, rule: string, step: number): number[] {
  let [row, last] = [0, -1];
  return data.meta.states.map((state, point) => {
    if (!state) return Number.NaN;
    switch (rule) {
      case "margin":
        return data.number("margin", point, step);
      case "confidence":
        return data.probability(point, step);
      case "entropy":
        return 1 - data.number("entropy", point, step) / Math.log(Math.max(2, data.meta.d_vocab));
      case "state":
        return data.number("state_cosine", point, step);
      default: {
        const top = data.topId(point, step);
        row = top === last ? row + 1 : 1;
        last = top;
        return row;
      }
    }
  });
}

/** When to stop: a rule, what its score has to exceed, and how many blocks always run. */
export interface When {
  rule: string;
  threshold: number;
  least: number;
}

/** The first point whose score exceeds the threshold; the last one where none does. */
export function exitPoint(data: Scored, { rule, threshold, least }: When, step: number): number {
  const found = scores(data, rule, step);
  const run = (point: number) => (data.meta.layers[point] ?? 0) + 1;
  const first = found.findIndex((score, point) => score > threshold && run(point) >= least);
  return first < 0 ? found.length - 1 : first;
}
