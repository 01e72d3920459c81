import { useSignal } from "@preact/signals";
import { useRef } from "preact/hooks";
import { compact } from "../../marks/numbers";
import type { Question } from "../../wire/course";

type Drawn = readonly (number | null)[];

interface Props {
  question: Question;
  drawn: Drawn;
  real?: readonly number[];
  /** Takes the curve with what was drawn; absent where it is only looked at. */
  draw?: ((drawn: (number | null)[]) => void) | undefined;
}

const [WIDTH, HEIGHT] = [560, 180];
const [LEFT, RIGHT, TOP, BOTTOM] = [52, 12, 10, 30];
/** So much of the axis an arrow key moves a point, and a page key. */
const [STEP, LEAP] = [0.02, 0.1];
/** Names of places are written so far apart at least. */
const APART = 44;

/** A curve that is drawn by hand, by pointer or keys, and the real one beside it. */
export function Curve({ question, drawn, real, draw }: Props) {
  const svg = useRef<SVGSVGElement>(null);
  const at = useSignal(0);
  const last = useRef<number | null>(null);
  const [low, high] = question.between ?? [0, 1];
  const places = question.options.length;
  const x = (place: number) => LEFT + (place / (places - 1)) * (WIDTH - LEFT - RIGHT);
  const y = (value: number) => TOP + ((high - value) / (high - low)) * (HEIGHT - TOP - BOTTOM);
  const every = Math.ceil((APART * places) / (WIDTH - LEFT - RIGHT));
  const value = drawn[at.value] ?? null;
  const name = question.options[at.value] ?? "";

  /** Draw to a place; the places passed since the last one lie on the line between them. */
  const put = (place: number, height: number, from: number | null) => {
    const next = Array.from({ length: places }, (_, i) => drawn[i] ?? null);
    const before = from === null ? null : next[from];
    const kept = Math.min(high, Math.max(low, height));
    next[place] = kept;
    if (from !== null && typeof before === "number") {
      const way = Math.abs(place - from);
      for (let step = 1; step < way; step++) {
        next[from + Math.sign(place - from) * step] = before + ((kept - before) * step) / way;
      }
    }
    at.value = place;
    draw?.(next);
  };
  const pointed = (event: PointerEvent, begins: boolean) => {
    const box = svg.current?.getBoundingClientRect();
    if (!box || !draw) return;
    const scale = box.width / WIDTH || 1;
    const [across, down] = [(event.clientX - box.left) / scale, (event.clientY - box.top) / scale];
    const part = (across - LEFT) / (WIDTH - LEFT - RIGHT);
    const place = Math.min(places - 1, Math.max(0, Math.round(part * (places - 1))));
    const height = high - ((down - TOP) / (HEIGHT - TOP - BOTTOM)) * (high - low);
    put(place, height, begins ? null : last.current);
    last.current = place;
  };
  const pressed = (event: KeyboardEvent) => {
    const move = MOVES[event.key];
    if (!draw || !move || event.ctrlKey || event.metaKey || event.altKey) return;
    const [aside, up] = move;
    if (up === 0) at.value = Math.min(places - 1, Math.max(0, at.peek() + aside));
    else put(at.peek(), (value ?? (low + high) / 2) + up * (high - low), null);
    event.preventDefault();
    event.stopPropagation();
  };
  const hand = draw && {
    class: "ll-course-drawn",
    role: "slider" as const,
    tabIndex: 0,
    "aria-label": `${question.ask} Left and right choose a place, up and down draw.`,
    "aria-valuemin": low,
    "aria-valuemax": high,
    "aria-valuenow": value ?? undefined,
    "aria-valuetext": `${name}: ${value === null ? "not drawn" : compact(value, 3)}`,
    onKeyDown: pressed,
    onPointerDown: (event: PointerEvent) => {
      svg.current?.setPointerCapture?.(event.pointerId);
      last.current = null;
      pointed(event, true);
    },
    onPointerMove: (event: PointerEvent) => event.buttons === 1 && pointed(event, false),
  };
  return (
    <figure class="ll-course-curve">
      <div {...hand}>
        <svg
          ref={svg}
          viewBox={`0 0 ${WIDTH} ${HEIGHT}`}
          role="img"
          aria-hidden={draw !== undefined}
        >
          <title>Your curve and the real one</title>
          {[low, (low + high) / 2, high].map((tick) => (
            <g key={tick}>
              <line class="ll-course-rule" x1={LEFT} x2={WIDTH - RIGHT} y1={y(tick)} y2={y(tick)} />
              <text x={LEFT - 6} y={y(tick) + 4} text-anchor="end">
                {compact(tick, 3)}
              </text>
            </g>
          ))}
          {question.options.map((option, place) =>
            place % every === 0 ? (
              <text key={option} x={x(place)} y={HEIGHT - 10} text-anchor="middle">
                {option}
              </text>
            ) : null,
          )}
          {draw && (
            <line
              class="ll-course-at"
              x1={x(at.value)}
              x2={x(at.value)}
              y1={TOP}
              y2={HEIGHT - BOTTOM}
            />
          )}
          <path class="ll-course-yours" d={line(drawn, x, y)} />
          {drawn.map((one, place) =>
            one === null ? null : (
              <circle key={place} class="ll-course-yours" cx={x(place)} cy={y(one)} r={3} />
            ),
          )}
          {real && <path class="ll-course-real" d={line(real, x, y)} />}
        </svg>
      </div>
      <figcaption class="ll-note">
        {real ? (
          <>
            <span class="ll-course-key ll-course-yours">● yours</span>{" "}
            <span class="ll-course-key ll-course-real">━ the real one</span>
            {question.unit && `, in ${question.unit}`}
          </>
        ) : (
          `${question.unit && `In ${question.unit}. `}Draw it: press and move, or with the arrow keys.`
        )}
      </figcaption>
    </figure>
  );
}

const MOVES: Readonly<Record<string, readonly [aside: number, up: number]>> = {
  ArrowLeft: [-1, 0],
  ArrowRight: [1, 0],
  Home: [Number.NEGATIVE_INFINITY, 0],
  End: [Number.POSITIVE_INFINITY, 0],
  ArrowUp: [0, STEP],
  ArrowDown: [0, -STEP],
  PageUp: [0, LEAP],
  PageDown: [0, -LEAP],
};

/** The path through the places that have a value; what is not drawn is a gap. */
function line(values: Drawn, x: (place: number) => number, y: (value: number) => number): string {
  let [path, on] = ["", false];
  values.forEach((value, place) => {
    if (value !== null) path += `${on ? "L" : "M"}${x(place).toFixed(1)} ${y(value).toFixed(1)}`;
    on = value !== null;
  });
  return path;
}
