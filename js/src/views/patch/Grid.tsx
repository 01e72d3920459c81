// biome-ignore-all lint/a11y/useSemanticElements: the picture is a canvas, these are its cells for readers
// biome-ignore-all lint/a11y/useFocusableInteractive: the grid has the focus, its cells never do
import { useId, useLayoutEffect, useMemo, useRef } from "preact/hooks";
import { written } from "../../marks/numbers";
import { around } from "../common/around";
import { useRoot } from "../common/Shell";
import { HeatController } from "./controller";
import type { PatchData } from "./data";
import type { PatchState } from "./state";

/** The grid of a sweep: one canvas to look at, and the cells around the focus to be read out. */
export function Grid({ state, data }: { state: PatchState; data: PatchData }) {
  const root = useRoot();
  const scroller = useRef<HTMLDivElement>(null);
  const sizer = useRef<HTMLDivElement>(null);
  const canvas = useRef<HTMLCanvasElement>(null);
  const unique = useMemo(() => Math.random().toString(36).slice(2, 8), []);
  const prefix = `ll-${useId()}-${unique}`;
  useLayoutEffect(() => {
    if (!root.current || !scroller.current || !sizer.current || !canvas.current) return;
    const controller = new HeatController(state, {
      root: root.current,
      scroller: scroller.current,
      sizer: sizer.current,
      canvas: canvas.current,
    });
    return () => controller.dispose();
  }, [state, root]);
  const cell = state.selected.value;
  const columns = data.byHead ? "heads" : "tokens";
  return (
    <div
      class="ll-table ll-heat"
      ref={scroller}
      role="grid"
      tabIndex={0}
      aria-label={`Recovered by patching ${data.meta.site}: ${columns} across, layers upwards. Arrow keys move, Enter runs the patch of a cell and takes it as the source, Enter again patches from there to here.`}
      aria-rowcount={data.layers}
      aria-colcount={data.columns}
      aria-activedescendant={cell ? `${prefix}-${cell.point}-${cell.position}` : undefined}
    >
      <Reader state={state} data={data} prefix={prefix} />
      <div class="ll-sizer" ref={sizer}>
        <canvas ref={canvas} />
      </div>
    </div>
  );
}

interface ReaderProps {
  state: PatchState;
  data: PatchData;
  prefix: string;
}

/** The cells around the selected one as elements, for screen readers. */
function Reader({ state, data, prefix }: ReaderProps) {
  state.session.version.value;
  const chosen = state.selected.value;
  const at = chosen ?? { point: data.layers - 1, position: 0 };
  return (
    <div class="ll-offscreen">
      {around(at.point, 1, data.layers)
        .reverse()
        .map((point) => (
          <div role="row" key={point} aria-rowindex={data.layers - point}>
            <span role="rowheader">{`layer ${data.meta.rows[point]}`}</span>
            {around(at.position, 2, data.columns).map((position) => (
              <span
                role="gridcell"
                key={position}
                id={`${prefix}-${point}-${position}`}
                aria-colindex={position + 1}
                aria-selected={point === chosen?.point && position === chosen.position}
              >
                {`${data.columnName(position)}: ${readOut(data, point, position)}`}
              </span>
            ))}
          </div>
        ))}
    </div>
  );
}

function readOut(data: PatchData, point: number, position: number): string {
  if (!data.arrived(point, position)) return "not computed yet";
  const value = data.recovered(point, position);
  return Number.isNaN(value) ? "undefined" : `recovered ${written(value)}`;
}
