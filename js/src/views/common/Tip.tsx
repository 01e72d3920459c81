import type { ComponentChildren } from "preact";
import type { Anchor } from "./canvasgrid";
import { useFloating } from "./floating";

/** The numbers of the cell under the pointer; columns may be too narrow for them. */
export function Tip({ at, children }: { at: Anchor | null; children: ComponentChildren }) {
  const box = useFloating(at);
  if (!at) return null;
  return (
    <div class="ll-float ll-preview ll-tip" ref={box} role="tooltip">
      {children}
    </div>
  );
}
