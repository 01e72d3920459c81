import { useId } from "preact/hooks";
import { PromptToken } from "../../marks/TokenText";
import type { ArrayInfo } from "../../wire/arrays";
import { capital, titleOf } from "../arrays/grouping";
import { Legend } from "../common/Legend";
import { Terms } from "../common/Term";
import type { StripData } from "./data";
import type { Group, StripState } from "./state";

interface Props {
  state: StripState;
  data: StripData;
}

/** A row of tokens for each array, with what the colours of each unit mean, and what one token has. */
export function Strips({ state, data }: Props) {
  return (
    <div class="ll-strips">
      {state.groups.value.map((group) => (
        <div key={group.rows[0]?.name}>
          {group.rows.map((row) => (
            <Row key={row.name} state={state} data={data} row={row} group={group} />
          ))}
          <Legend scale={group.scale} values={group.ends} />
        </div>
      ))}
      <Says state={state} data={data} />
    </div>
  );
}

/** The text in one array's colours; one set of keys walks through it. */
function Row({ state, data, row, group }: Props & { row: ArrayInfo; group: Group }) {
  const id = useId();
  const [step, chosen] = [state.drawnStep.value, state.item.value];
  const { scale } = group;
  const name = capital(titleOf(row, data.meta));
  return (
    <div class="ll-strip-row">
      {data.rows.length > 1 && (
        <h3>
          <Terms state={state} text={name} />
        </h3>
      )}
      <div
        class="ll-strip-text"
        dir="auto"
        role="listbox"
        tabIndex={0}
        aria-orientation="horizontal"
        aria-label={`${name} at ${state.stepName(step)}: ${data.size} tokens`}
        aria-activedescendant={chosen >= 0 ? `${id}-${chosen}` : undefined}
        onKeyDown={(event) => moved(state, data, row, event)}
        onPointerOver={(event) => {
          state.pointed.value = itemOf(event);
        }}
        onPointerLeave={() => {
          state.pointed.value = -1;
        }}
        onClick={(event) => pressed(state, row, itemOf(event))}
      >
        {data.numbers(row, step).map((value, item) => {
          const color = scale.index(value);
          const tokens = data.tokens(row, item);
          return [
            // biome-ignore lint/a11y/useFocusableInteractive: the list has the focus, its tokens never do
            <span
              key={item}
              id={`${id}-${item}`}
              class="ll-strip-token"
              role="option"
              data-item={item}
              aria-selected={item === chosen}
              aria-label={`${data.name(tokens, item)}: ${data.said(row, value)}`}
              style={{ background: scale.fills[color], color: scale.inks[color] }}
            >
              {tokens.map((token, k) => [k > 0 && "→", <PromptToken key={k} token={token} />])}
            </span>,
            tokens.some(({ text }) => text.includes("\n")) ? (
              <br key={`${item} end`} />
            ) : (
              // The marks of spaces are none that a line could break at.
              <wbr key={`${item} end`} />
            ),
          ];
        })}
      </div>
    </div>
  );
}

/** What the token under the pointer, else the one that is looked at, has in every row. */
function Says({ state, data }: Props) {
  const item = state.pointed.value >= 0 ? state.pointed.value : state.item.value;
  return (
    <p class="ll-strip-says" aria-hidden="true">
      {item >= 0 && item < data.size ? data.sentence(state.drawnStep.value, item) : " "}
    </p>
  );
}

function itemOf(event: Event): number {
  const token = (event.target as Element).closest<HTMLElement>("[data-item]");
  return Number(token?.dataset.item ?? -1);
}

function pressed(state: StripState, row: ArrayInfo, item: number): void {
  if (item < 0) return;
  state.choose(item);
  state.openToken(row, item);
}

/** Left and right go through the tokens, up and down through the layers. */
function moved(state: StripState, data: StripData, row: ArrayInfo, event: KeyboardEvent): void {
  if (event.ctrlKey || event.metaKey || event.altKey) return;
  const item = state.item.peek();
  const last = data.size - 1;
  if (event.key === "ArrowUp") state.goStep(state.drawnStep.peek() + 1, "now");
  else if (event.key === "ArrowDown") state.goStep(state.drawnStep.peek() - 1, "now");
  else if (event.key === "ArrowRight") state.choose(Math.min(last, item + 1));
  else if (event.key === "ArrowLeft") state.choose(item < 0 ? last : Math.max(0, item - 1));
  else if (event.key === "Home") state.choose(0);
  else if (event.key === "End") state.choose(last);
  else if (event.key === "Enter") state.openToken(row, item);
  else if (event.key === "?") state.help.value = !state.help.peek();
  else return;
  event.preventDefault();
  event.stopPropagation();
}
