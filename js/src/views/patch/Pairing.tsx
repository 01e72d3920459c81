import { useSignal } from "@preact/signals";
import { plain } from "../../marks/text";
import type { PatchData } from "./data";
import { type Column, linked, ROWS, type Row, unlinked } from "./links";
import { Token } from "./Pairs";
import type { PatchState } from "./state";

interface Place {
  row: Row;
  position: number;
}

interface Props {
  state: PatchState;
  data: PatchData;
  columns: readonly Column[];
  leave: () => void;
}

/** Both rows of tokens as buttons: one of each row, pressed after each other, belong together. */
export function Pairing({ state, data, columns, leave }: Props) {
  const picked = useSignal<Place | null>(null);
  const name = ({ row, position }: Place) => plain(data.tokens(row)[position]?.text ?? "");
  const press = (place: Place) => {
    const first = picked.peek();
    if (!first || first.row === place.row) {
      const again = first?.position === place.position;
      picked.value = again ? null : place;
      if (!again) state.announced.value = `Picked ${name(place)}; press its partner.`;
      return;
    }
    const [clean, corrupt] = first.row === "clean" ? [first, place] : [place, first];
    state.pair(linked(state.links.peek(), [clean.position, corrupt.position]));
    state.announced.value = `Paired ${name(clean)} with ${name(corrupt)}.`;
    picked.value = null;
  };
  const part = ({ row, position }: Place) => {
    state.pair(unlinked(state.links.peek(), row, position));
    picked.value = null;
  };
  const key = (event: KeyboardEvent) => {
    const at = placeOf(event.target);
    if (event.key === "Escape" && picked.peek()) picked.value = null;
    else if (event.key === "Escape") leave();
    else if ((event.key === "Delete" || event.key === "Backspace") && at) part(at);
    else if (!at || !moved(event, columns, at)) return;
    event.preventDefault();
    event.stopPropagation();
  };
  return (
    <>
      {/* biome-ignore lint/a11y/noStaticElementInteractions: the buttons in it have the focus */}
      <span class="ll-pairing" onKeyDown={key}>
        {columns.map((column) => (
          <span key={column.join()} class="ll-chip ll-couple ll-half-chips">
            {ROWS.map((row, i) => (
              <Half
                key={row}
                data={data}
                row={row}
                position={column[i] ?? null}
                picked={picked.value}
                press={press}
              />
            ))}
          </span>
        ))}
      </span>
      <span class="ll-pairing-tools">
        <span class="ll-dim">
          Press a token, then its partner in the other row. Arrows move, Enter picks, Delete parts,
          Esc ends.
        </span>
        <button
          type="button"
          disabled={picked.value === null}
          onClick={() => picked.value && part(picked.value)}
        >
          Part
        </button>
        <button
          type="button"
          disabled={!state.ownPairs.value}
          title="Pair equal tokens again"
          onClick={() => state.pair(null)}
        >
          Propose again
        </button>
      </span>
    </>
  );
}

interface HalfProps {
  data: PatchData;
  row: Row;
  position: number | null;
  picked: Place | null;
  press: (place: Place) => void;
}

function Half({ data, row, position, picked, press }: HalfProps) {
  if (position === null) return <Token token={undefined} />;
  const token = data.tokens(row)[position];
  const words = row === "clean" ? "clean" : "corrupted";
  return (
    <button
      type="button"
      class="ll-half"
      data-row={row}
      data-position={position}
      aria-pressed={picked?.row === row && picked.position === position}
      aria-label={`${plain(token?.text ?? "")}, position ${position} of the ${words} prompt`}
      onClick={() => press({ row, position })}
    >
      <Token token={token} />
    </button>
  );
}

function placeOf(target: EventTarget | null): Place | null {
  const { row, position } = target instanceof HTMLElement ? target.dataset : {};
  return row && position ? { row: row as Row, position: Number(position) } : null;
}

/** Move the focus to the next token of the row, or to the other row; false for other keys. */
function moved(event: KeyboardEvent, columns: readonly Column[], { row, position }: Place) {
  const step = { ArrowLeft: -1, ArrowRight: 1, ArrowUp: 0, ArrowDown: 0 }[event.key];
  if (step === undefined || event.ctrlKey || event.metaKey || event.altKey) return false;
  const own = ROWS.indexOf(row);
  const to = step === 0 ? (event.key === "ArrowUp" ? 0 : 1) : own;
  let column = columns.findIndex((each) => each[own] === position) + step;
  while (columns[column] && columns[column]?.[to] === null) column += step || 1;
  const next = columns[column]?.[to];
  const root = (event.currentTarget as HTMLElement).querySelector<HTMLElement>(
    `[data-row="${ROWS[to]}"][data-position="${next}"]`,
  );
  root?.focus();
  return true;
}
