import { useEffect, useRef } from "preact/hooks";
import { Part } from "../common/Part";
import { CellPopup, Preview } from "./Floating";
import type { OtherState, ViewState } from "./state";
import { Table } from "./Table";

/** The table of a lens, or those of two on one grid: row, position and scrolling are shared. */
export function Tables({ state, other }: { state: ViewState; other: OtherState }) {
  if (!state.beside) return <Table state={state} />;
  return <Two state={state} other={other} />;
}

function Two({ state, other }: { state: ViewState; other: OtherState }) {
  const both = useRef<HTMLDivElement>(null);
  useEffect(() => follow(Array.from(both.current?.querySelectorAll(".ll-table") ?? [])), []);
  const meta = state.meta.value;
  const kind = meta?.other?.kind;
  const words = { model: meta?.model, text: "This text", edits: "As it is" };
  const label = other.label;
  return (
    <div class="ll-two" ref={both}>
      <Part aria-label="First lens">
        <h3>{kind ? words[kind] : `${state.data.value?.name} lens`}</h3>
        <Table state={state} />
      </Part>
      <Part aria-label="Other lens">
        <h3 title={label}>{label}</h3>
        <Table state={other} label={label} />
        <Preview state={other} />
        <CellPopup state={other} />
      </Part>
    </div>
  );
}

/** Let the scrolling of each move the others. */
function follow(tables: readonly Element[]): () => void {
  const stops = tables.map((table) => {
    const moved = () => {
      for (const other of tables) {
        if (other.scrollTop !== table.scrollTop) other.scrollTop = table.scrollTop;
        if (other.scrollLeft !== table.scrollLeft) other.scrollLeft = table.scrollLeft;
      }
    };
    table.addEventListener("scroll", moved);
    return () => table.removeEventListener("scroll", moved);
  });
  return () => {
    for (const stop of stops) stop();
  };
}
