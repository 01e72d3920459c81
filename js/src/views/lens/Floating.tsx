import type { ComponentChildren } from "preact";
import { useLayoutEffect } from "preact/hooks";
import { clamp } from "../../marks/windowing";
import { useFloating } from "../common/floating";
import type { ViewState } from "./state";
import { Numbers, TopList, Where } from "./TopList";

/** What the pointer is over; hidden while a popup is open, never focusable. */
export function Preview({ state }: { state: ViewState }) {
  const at = state.popup.value ? null : state.hover.value;
  state.session.version.value;
  const box = useFloating(at);
  const data = state.data.value;
  if (!at || !data) return null;
  return (
    <div class="ll-float ll-preview" ref={box} role="tooltip">
      <Where data={data} cell={at.cell} />
      <TopList state={state} data={data} cell={at.cell} pinnable={false} ids />
      <Numbers state={state} data={data} cell={at.cell} />
    </div>
  );
}

/** The top tokens of a chosen cell; each can be pinned. Escape or a click elsewhere closes it. */
export function CellPopup({ state }: { state: ViewState }) {
  const at = state.popup.value;
  const data = state.data.value;
  state.session.version.value;
  const box = useFloating(at);
  useLayoutEffect(() => {
    if (at) box.current?.querySelector<HTMLElement>(".ll-top")?.focus({ preventScroll: true });
  }, [at, box]);
  if (!at || !data) return null;
  const close = () => {
    const root = box.current?.closest(".layerlens");
    state.popup.value = null;
    root?.querySelector<HTMLElement>(".ll-table")?.focus({ preventScroll: true });
  };
  return (
    <div
      class="ll-float ll-popup"
      ref={box}
      role="dialog"
      aria-label="Top tokens of this cell"
      onKeyDown={(event) => popupKey(event, box.current, close)}
    >
      <Head close={close}>
        <Where data={data} cell={at.cell} />
      </Head>
      <TopList state={state} data={data} cell={at.cell} pinnable ids />
      <Numbers state={state} data={data} cell={at.cell} />
      <p class="ll-hint">Press a token to pin it and follow it through the layers.</p>
    </div>
  );
}

function Head({ children, close }: { children: ComponentChildren; close: () => void }) {
  return (
    <div class="ll-float-head">
      {children}
      <button type="button" class="ll-icon" aria-label="Close" title="Close (Esc)" onClick={close}>
        ✕
      </button>
    </div>
  );
}

function popupKey(event: KeyboardEvent, box: HTMLElement | null, close: () => void): void {
  if (event.key === "Escape") {
    event.preventDefault();
    event.stopPropagation();
    close();
    return;
  }
  if (event.key !== "ArrowDown" && event.key !== "ArrowUp") return;
  const buttons = Array.from(box?.querySelectorAll<HTMLElement>("button.ll-top") ?? []);
  const root = box?.getRootNode() as Document | ShadowRoot | undefined;
  const at = buttons.indexOf(root?.activeElement as HTMLElement);
  const next = at + (event.key === "ArrowDown" ? 1 : -1);
  buttons[clamp(next, 0, buttons.length - 1)]?.focus();
  event.preventDefault();
}
