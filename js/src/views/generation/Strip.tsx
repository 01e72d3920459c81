import { useEffect, useRef } from "preact/hooks";
import { TokenText } from "../../marks/TokenText";
import { percent } from "../common/format";
import { Part } from "../common/Part";
import { Switch } from "../common/Switch";
import { pointLabel } from "../lens/data";
import type { GenerationState } from "./state";

/** How sure the model was of each token, where it was decided, and where it could have stopped. */
export function Strip({ state }: { state: GenerationState }) {
  state.session.version.value;
  const data = state.written;
  if (!data || data.written === 0) return null;
  return (
    <Part class="ll-strip" aria-label="By token">
      <Rule state={state} />
      <Row state={state} />
    </Part>
  );
}

/** The rule and its threshold, moved on the numbers that are there. */
function Rule({ state }: { state: GenerationState }) {
  state.session.version.value;
  const data = state.written;
  const { rule, threshold, min_layers } = state.own.traits;
  if (!data) return null;
  const { rules, layers, n_layers } = data.meta;
  const chosen = rules.find(({ name }) => name === rule.value);
  if (!chosen) return null;
  const { words, low, high, step } = chosen;
  const when = state.when.value;
  const exits = data.meta.tokens.map((_, at) => data.exit(when, at));
  const run = exits.map((point) => Math.min(n_layers, (layers[point] ?? 0) + 1));
  const mean = run.reduce((sum, blocks) => sum + blocks, 0) / Math.max(1, run.length);
  const last = data.points - 1;
  const same = exits.filter((point, at) => data.topId(point, at) === data.topId(last, at)).length;
  return (
    <div class="ll-toolbar">
      <Switch
        state={state}
        label="Rule to stop by"
        value={rule.value}
        choices={rules.map(({ name, words }) => ({ value: name, label: name, title: words }))}
        choose={(name) => {
          const found = rules.find((other) => other.name === name);
          state.own.write({ rule: name, threshold: found?.threshold ?? 0.5 });
        }}
      />
      <label class="ll-group" title={`Exit at the first row where it exceeds this: ${words}`}>
        <span class="ll-dim">Threshold</span>
        <input
          type="range"
          min={low}
          max={high}
          step={step}
          value={threshold.value}
          aria-label={`Threshold: ${words}`}
          onInput={(event) =>
            state.own.write({ threshold: Number(event.currentTarget.value) }, "soon")
          }
        />
        <output class="ll-num">{Number(threshold.value.toFixed(3))}</output>
      </label>
      <label class="ll-group" title="So many blocks always run, whatever the rule says">
        <span class="ll-dim">At least</span>
        <input
          type="range"
          min={0}
          max={n_layers}
          step={1}
          value={min_layers.value}
          aria-label="Blocks that always run"
          onInput={(event) =>
            state.own.write({ min_layers: Number(event.currentTarget.value) }, "soon")
          }
        />
        <output class="ll-num">{min_layers.value} blocks</output>
      </label>
      <span class="ll-num" role="status">
        {mean.toFixed(1)} of {n_layers} blocks a token; {same} of {exits.length} tokens the same
      </span>
    </div>
  );
}

/** One column a token, as wide as those of the table and scrolled with them. */
function Row({ state }: { state: GenerationState }) {
  const box = useRef<HTMLDivElement>(null);
  useEffect(() => {
    const table = box.current?.closest(".ll-view")?.querySelector(".ll-table");
    if (!table) return;
    const follow = () => {
      if (box.current) box.current.scrollLeft = table.scrollLeft;
    };
    follow();
    table.addEventListener("scroll", follow, { passive: true });
    return () => table.removeEventListener("scroll", follow);
  }, []);
  state.session.version.value;
  const data = state.written;
  const when = state.when.value;
  if (!data) return null;
  const last = data.points - 1;
  const { position } = state.selected.value;
  const name = (point: number) => pointLabel(data.meta.points[point] ?? "");
  // Narrow columns have no room for words.
  const width = state.session.traits.transposed.value ? 72 : state.columnWidth.value;
  return (
    <div class="ll-columns" ref={box}>
      <table style={{ "--ll-column": `${width}px` }} class={width < 40 ? "ll-narrow" : undefined}>
        <tbody>
          <tr>
            <th scope="row">sure</th>
            {data.meta.tokens.map((token, step) => (
              <td
                key={`${step}:${token.id}`}
                class={step === position ? "ll-chosen" : undefined}
                title={`written with ${percent(data.number("written_probability", last, step))}`}
              >
                <span class="ll-bar" aria-hidden="true">
                  <span
                    style={{ width: `${100 * data.number("written_probability", last, step)}%` }}
                  />
                </span>
                <span class="ll-offscreen">
                  {percent(data.number("written_probability", last, step))}
                </span>
              </td>
            ))}
          </tr>
          <tr>
            <th scope="row">decided</th>
            {data.meta.tokens.map((token, step) => (
              <td key={`${step}:${token.id}`}>{name(data.settled(step))}</td>
            ))}
          </tr>
          <tr>
            <th scope="row">exit</th>
            {data.meta.tokens.map((token, step) => {
              const point = data.exit(when, step);
              const other = data.topId(point, step) !== data.topId(last, step);
              return (
                <td key={`${step}:${token.id}`} class={other ? "ll-parted" : undefined}>
                  {name(point)}
                  {other && (
                    <>
                      {" "}
                      <TokenText text={data.tokenName(data.topId(point, step))} />
                    </>
                  )}
                </td>
              );
            })}
          </tr>
        </tbody>
      </table>
    </div>
  );
}
