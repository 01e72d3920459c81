import { useLayoutEffect, useRef } from "preact/hooks";
import { clamp } from "../../marks/windowing";

/** The lower left corner of what a box stands beside, from the view's top left, and its height. */
export interface Beside {
  x: number;
  y: number;
  height: number;
}

/** A box beside something that stays inside the view. */
export function useFloating(at: Beside | null) {
  const box = useRef<HTMLDivElement>(null);
  useLayoutEffect(() => {
    const element = box.current;
    const parent = element?.offsetParent;
    if (!element || !parent || !at) return;
    const { offsetWidth: width, offsetHeight: height } = element;
    const left = clamp(at.x, 4, Math.max(4, parent.clientWidth - width - 4));
    const below = at.y + 4;
    const above = at.y - at.height - height - 4;
    const top = below + height <= parent.clientHeight || above < 0 ? below : above;
    element.style.transform = `translate(${Math.round(left)}px, ${Math.round(top)}px)`;
  });
  return box;
}
