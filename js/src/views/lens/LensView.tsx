import { useLayoutEffect, useRef } from "preact/hooks";
import { applyPalette } from "../../theme/palette";
import { CellPopup, Preview } from "./Floating";
import { Checks, StatusLine } from "./Footer";
import { Header } from "./Header";
import { Help } from "./Help";
import { Prompt } from "./Prompt";
import { Side } from "./Side";
import type { ViewState } from "./state";
import { Table } from "./Table";
import { Toolbar } from "./Toolbar";
import { Trajectories } from "./Trajectories";

/** The whole view of a logit lens. */
export function LensView({ state }: { state: ViewState }) {
  const root = useRef<HTMLElement | null>(null);
  const palette = state.palette.value;
  useLayoutEffect(() => {
    if (root.current) applyPalette(root.current, palette);
  }, [palette]);
  return (
    <section class="ll-view" ref={root} aria-label="Logit lens">
      <Header state={state} root={root} />
      <Prompt state={state} />
      <Help state={state} />
      {state.data.value ? (
        <>
          <Toolbar state={state} />
          <div class="ll-main">
            <Table state={state} root={root} />
            <Side state={state} />
          </div>
          <p class="ll-hint">
            Stepped line: from there on the top token stays final. Click a cell for its top tokens;
            arrow keys move, Enter opens, P pins, ? lists all.
          </p>
          <Trajectories state={state} />
        </>
      ) : (
        <Waiting state={state} />
      )}
      <StatusLine state={state} />
      <Checks state={state} />
      <Preview state={state} />
      <CellPopup state={state} />
    </section>
  );
}

function Waiting({ state }: { state: ViewState }) {
  const { live, traits } = state.session;
  if (traits.status.value.state === "error") return null;
  return (
    <p class="ll-waiting" role="status">
      {live.value
        ? "Waiting for the kernel…"
        : "Nothing was saved with this page; run the cell to compute it."}
    </p>
  );
}
