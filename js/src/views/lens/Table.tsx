// biome-ignore-all lint/a11y/useSemanticElements: a grid of 30 000 cells cannot be a <table>
// biome-ignore-all lint/a11y/useFocusableInteractive: the grid has the focus, its cells never do
import { useId, useLayoutEffect, useMemo, useRef } from "preact/hooks";
import { plain, tokenName } from "../../marks/text";
import { cellAt, columnCount, type GridShape, placeOf, rowCount } from "../../marks/windowing";
import { around } from "../common/around";
import { percent } from "../common/format";
import { useRoot } from "../common/root";
import { TableController } from "./controller";
import { pointLabel } from "./data";
import { isWorse } from "./scores";
import type { ViewState } from "./state";

/** The lens table: one canvas to look at, and a few real cells around the focus to be read out. */
export function Table({ state, label }: { state: ViewState; label?: string }) {
  const root = useRoot();
  const scroller = useRef<HTMLDivElement>(null);
  const sizer = useRef<HTMLDivElement>(null);
  const canvas = useRef<HTMLCanvasElement>(null);
  const unique = useMemo(() => Math.random().toString(36).slice(2, 8), []);
  const prefix = `ll-${useId()}-${unique}`;
  useLayoutEffect(() => {
    if (!root.current || !scroller.current || !sizer.current || !canvas.current) return;
    const controller = new TableController(state, {
      root: root.current,
      scroller: scroller.current,
      sizer: sizer.current,
      canvas: canvas.current,
    });
    return () => controller.dispose();
  }, [state, root]);
  const data = state.data.value;
  const shape = readerShape(state);
  const { point, position } = state.selected.value;
  return (
    <div
      class="ll-table"
      ref={scroller}
      role="grid"
      tabIndex={0}
      aria-label={`${data?.name || "Logit"} lens of “${label ?? state.session.traits.text.value}”: ${
        shape.transposed ? "tokens down, layers across" : "tokens across, layers upwards"
      }. Arrow keys move, Enter shows the top tokens, P pins.`}
      aria-rowcount={rowCount(shape)}
      aria-colcount={columnCount(shape)}
      aria-activedescendant={data ? `${prefix}-${point}-${position}` : undefined}
    >
      <Reader state={state} prefix={prefix} />
      <div class="ll-sizer" ref={sizer} aria-hidden="true">
        <canvas ref={canvas} />
      </div>
    </div>
  );
}

function readerShape(state: ViewState): GridShape {
  const data = state.data.value;
  return {
    points: data?.points ?? 0,
    positions: data?.positions ?? 0,
    transposed: state.session.traits.transposed.value,
    cellWidth: 1,
    rowHeight: 1,
    headWidth: 0,
    headHeight: 0,
  };
}

/** The cells around the selected one as elements, for screen readers. */
function Reader({ state, prefix }: { state: ViewState; prefix: string }) {
  state.session.version.value;
  const data = state.data.value;
  if (!data) return null;
  const shape = readerShape(state);
  const chosen = placeOf(shape, state.selected.value);
  const rows = around(chosen.row, 1, rowCount(shape));
  const columns = around(chosen.column, 2, columnCount(shape));
  const score = state.scores.value[data.lens];
  const pointName = (point: number) => {
    const worse = isWorse(score, point) ? ", worse than a uniform guess" : "";
    return pointLabel(data.meta.points[point] ?? "") + worse;
  };
  const nameAt = (position: number) => tokenName(data.meta.tokens[position]);
  return (
    <div class="ll-offscreen">
      {rows.map((row) => {
        const head = cellAt(shape, row, 0);
        return (
          <div role="row" key={row} aria-rowindex={row + 1}>
            <span role="rowheader">
              {shape.transposed ? nameAt(head.position) : pointName(head.point)}
            </span>
            {columns.map((column) => {
              const { point, position } = cellAt(shape, row, column);
              const top = data.arrived(point, position)
                ? `${plain(data.tokenName(data.topId(point, position)))}, ${percent(data.probability(point, position))}`
                : "not computed yet";
              const where = shape.transposed ? pointName(point) : nameAt(position);
              return (
                <span
                  role="gridcell"
                  key={column}
                  id={`${prefix}-${point}-${position}`}
                  aria-colindex={column + 1}
                  aria-selected={row === chosen.row && column === chosen.column}
                >
                  {`${where}: ${top}`}
                </span>
              );
            })}
          </div>
        );
      })}
    </div>
  );
}
