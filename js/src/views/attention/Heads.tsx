import { useLayoutEffect, useMemo, useRef } from "preact/hooks";
import { Part } from "../common/Part";
import { type AttentionData, roleName } from "./data";
import { rootKey } from "./keyboard";
import type { Thumb } from "./squares";
import type { AttentionState } from "./state";

interface Props {
  state: AttentionState;
  data: AttentionData;
}

/** All heads of the layer in little, by the keys and values that they share. */
export function Heads({ state, data }: Props) {
  state.session.version.value;
  const list = useRef<HTMLFieldSetElement>(null);
  const groups = useMemo(() => data.groups(), [data]);
  const slice = state.slice(false);
  const problem = state.slices.problem(state.key(false));
  const go = (head: number) => {
    list.current?.querySelector<HTMLElement>(`[data-head="${head}"]`)?.focus();
  };
  return (
    <Part class="ll-heads" aria-label={`Heads of layer ${state.layer.value}`}>
      {problem && (
        <p class="ll-error" role="alert">
          {problem}
        </p>
      )}
      <fieldset
        ref={list}
        class={slice ? "ll-head-list" : "ll-head-list ll-old"}
        aria-busy={!slice}
        aria-label={`Heads of layer ${state.layer.value}. Arrow keys move, Enter shows one, S only this one.`}
        onKeyDown={(event) => headKey(event, state, data.first.n_heads, go)}
      >
        {groups.map((heads, group) => (
          <div class={data.shares ? "ll-head-group" : "ll-head-plain"} key={group}>
            {data.shares && (
              <span
                class="ll-dim"
                title={`Heads ${heads.join(", ")} share one set of keys and values (a key-value group)`}
              >
                KV {group}
              </span>
            )}
            <div>
              {heads.map((head) => (
                <Head key={head} state={state} data={data} head={head} />
              ))}
            </div>
          </div>
        ))}
      </fieldset>
      {!slice && !problem && <p class="ll-note">{waiting(state)}</p>}
    </Part>
  );
}

function waiting(state: AttentionState): string {
  if (state.session.live.value) return `Layer ${state.layer.value} has not come yet.`;
  const note = state.meta.value?.kept_words;
  return note || `Layer ${state.layer.value} was not saved with this page.`;
}

function Head({ state, data, head }: Props & { head: number }) {
  // Roles come once the run is over.
  state.session.version.value;
  const layer = state.layer.value;
  const roles = data.roles(layer, head);
  const chosen = state.head.value === head;
  const several = state.session.traits.reduce.value !== "one";
  const on = several ? state.on.value.includes(head) : chosen;
  const said = roles.map(({ role, score }) => {
    const means = state.terms()[role];
    return `${roleName(role)} ${score.toFixed(2)}${means ? `: ${means}` : ""}`;
  });
  const rule = roles.length > 0 ? data.meta.role_rule : "";
  return (
    <button
      type="button"
      class={several && !on ? "ll-head ll-off" : "ll-head"}
      data-head={head}
      tabIndex={chosen ? 0 : -1}
      aria-pressed={on}
      title={[`Layer ${layer}, head ${head}`, ...said, rule].filter(Boolean).join("\n")}
      onClick={(event) => state.press(head, event.shiftKey)}
      onDblClick={() => state.solo(head)}
    >
      <Small state={state} head={head} />
      <span class="ll-head-name">
        <span class="ll-num">
          <span class="ll-offscreen">head </span>
          {data.headName(head)}
        </span>{" "}
        {roles[0] && (
          <span class="ll-role">
            {roleName(roles[0].role)} {roles[0].score.toFixed(2)}
          </span>
        )}
      </span>
    </button>
  );
}

function Small({ state, head }: { state: AttentionState; head: number }) {
  const canvas = useRef<HTMLCanvasElement>(null);
  const slice = state.slice(false);
  const thumb = slice && state.thumbs.of(slice, head, state.left(false));
  const colors = state.smallColors.value;
  useLayoutEffect(() => {
    // Until the next layer has come, the last one stays, faint.
    if (thumb && canvas.current) draw(canvas.current, thumb, colors);
  }, [thumb, colors]);
  return <canvas ref={canvas} />;
}

function draw(canvas: HTMLCanvasElement, thumb: Thumb, colors: Uint32Array): void {
  const { width, height, bytes } = thumb;
  const pixels = new Uint32Array(bytes.length);
  for (let i = 0; i < bytes.length; i++) pixels[i] = colors[bytes[i] as number] as number;
  if (canvas.width !== width) canvas.width = width;
  if (canvas.height !== height) canvas.height = height;
  const data = new ImageData(new Uint8ClampedArray(pixels.buffer), width, height);
  canvas.getContext("2d")?.putImageData(data, 0, 0);
}

/** Keys of the list of heads. */
function headKey(
  event: KeyboardEvent,
  state: AttentionState,
  count: number,
  go: (head: number) => void,
): void {
  if (rootKey(event, state)) return;
  if (event.ctrlKey || event.metaKey || event.altKey) return;
  const at = Number((event.target as HTMLElement).dataset.head ?? -1);
  const ways: Record<string, number> = {
    ArrowRight: at + 1,
    ArrowDown: at + 1,
    ArrowLeft: at - 1,
    ArrowUp: at - 1,
    Home: 0,
    End: count - 1,
  };
  if (event.key === "s" && at >= 0) state.solo(at);
  else if (Object.hasOwn(ways, event.key))
    go(Math.min(count - 1, Math.max(0, ways[event.key] as number)));
  else return;
  event.preventDefault();
  event.stopPropagation();
}
