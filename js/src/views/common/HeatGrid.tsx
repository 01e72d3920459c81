// biome-ignore-all lint/a11y/useSemanticElements: the picture is a canvas, these are its cells for readers
// biome-ignore-all lint/a11y/useFocusableInteractive: the grid has the focus, its cells never do
import { useId, useLayoutEffect, useMemo, useRef } from "preact/hooks";
import type { Cell } from "../../marks/windowing";
import { around } from "./around";
import type { CanvasGrid, GridElements } from "./canvasgrid";
import { useRoot } from "./root";

interface Props {
  /** Makes what draws the grid; to be the same function while the grid is the same. */
  control: (elements: GridElements) => CanvasGrid;
  label: string;
  rows: number;
  columns: number;
  selected: Cell | null;
  /** Rows are counted downwards, as tokens are; layers grow upwards. */
  down?: boolean;
  rowName: (point: number) => string;
  columnName: (position: number) => string;
  /** What is read out for a cell. */
  read: (point: number, position: number) => string;
}

/** A grid of numbers: one canvas to look at, and the cells around the focus to be read out. */
export function HeatGrid(props: Props) {
  const { control, label, rows, columns, selected } = props;
  const root = useRoot();
  const scroller = useRef<HTMLDivElement>(null);
  const sizer = useRef<HTMLDivElement>(null);
  const canvas = useRef<HTMLCanvasElement>(null);
  const unique = useMemo(() => Math.random().toString(36).slice(2, 8), []);
  const prefix = `ll-${useId()}-${unique}`;
  useLayoutEffect(() => {
    if (!root.current || !scroller.current || !sizer.current || !canvas.current) return;
    const controller = control({
      root: root.current,
      scroller: scroller.current,
      sizer: sizer.current,
      canvas: canvas.current,
    });
    return () => controller.dispose();
  }, [control, root]);
  return (
    <div
      class="ll-table ll-heat"
      ref={scroller}
      role="grid"
      tabIndex={0}
      aria-label={label}
      aria-rowcount={rows}
      aria-colcount={columns}
      // A row alone is none of the cells.
      aria-activedescendant={
        selected && selected.position >= 0
          ? `${prefix}-${selected.point}-${selected.position}`
          : undefined
      }
    >
      <Reader {...props} prefix={prefix} />
      <div class="ll-sizer" ref={sizer} aria-hidden="true">
        <canvas ref={canvas} />
      </div>
    </div>
  );
}

/** The cells around the selected one as elements, for screen readers, from the top row down. */
function Reader(props: ReaderProps) {
  const { rows, columns, selected, down, rowName, columnName, read, prefix } = props;
  const at = selected ?? { point: down ? 0 : rows - 1, position: 0 };
  const near = around(at.point, 1, rows);
  return (
    <div class="ll-offscreen">
      {(down ? near : near.reverse()).map((point) => (
        <div role="row" key={point} aria-rowindex={down ? point + 1 : rows - point}>
          <span role="rowheader">{rowName(point)}</span>
          {around(at.position, 2, columns).map((position) => (
            <span
              role="gridcell"
              key={position}
              id={`${prefix}-${point}-${position}`}
              aria-colindex={position + 1}
              aria-selected={point === selected?.point && position === selected.position}
            >
              {`${columnName(position)}: ${read(point, position)}`}
            </span>
          ))}
        </div>
      ))}
    </div>
  );
}

type ReaderProps = Props & { prefix: string };
