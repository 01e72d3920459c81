import { openView } from "../views/all";
import { frameOf, keepHeight } from "./frame";
import { start } from "./start";

const frame = frameOf(window);

function begin(): void {
  // Inside another page, colours are that page's.
  void start(document, openView, frame?.ownerDocument);
  if (frame) keepHeight(frame, document);
}

if (document.readyState === "loading") document.addEventListener("DOMContentLoaded", begin);
else begin();
