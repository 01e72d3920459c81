import { useLayoutEffect, useRef } from "preact/hooks";
import { Chart, type ChartInput } from "../../marks/chart";

interface Props {
  /** To be the same object while nothing of it changes. */
  input: Omit<ChartInput, "font">;
  /** The place that is selected. */
  mark: number | null;
  /** The place under the pointer, here or in another chart. */
  cross?: number | null;
  choose: (place: number) => void;
  over?: (place: number | null) => void;
}

/** A chart of curves as wide as it has room for; to look at only, its numbers stand beside it. */
export function Plot({ input, mark, cross, choose, over }: Props) {
  const host = useRef<HTMLDivElement>(null);
  const chart = useRef<Chart | null>(null);
  const listener = useRef({ choose, over });
  listener.current = { choose, over };
  useLayoutEffect(() => {
    if (!host.current) return;
    const made = new Chart(host.current, {
      choose: (place) => listener.current.choose(place),
      over: (place) => listener.current.over?.(place),
    });
    chart.current = made;
    const observer = new ResizeObserver(([entry]) => {
      made.resize(Math.floor(entry?.contentRect.width ?? 0));
    });
    observer.observe(host.current);
    return () => {
      observer.disconnect();
      made.dispose();
    };
  }, []);
  useLayoutEffect(() => {
    const font = host.current ? getComputedStyle(host.current).fontFamily : "sans-serif";
    chart.current?.draw({ ...input, font });
  }, [input]);
  useLayoutEffect(() => chart.current?.mark(mark), [mark]);
  useLayoutEffect(() => {
    if (cross !== undefined) chart.current?.cross(cross);
  }, [cross]);
  return (
    <div class="ll-plot" ref={host} style={{ minHeight: `${input.height}px` }} aria-hidden="true" />
  );
}
