import { openView } from "../views/all";
import { start } from "./start";

if (document.readyState === "loading") {
  document.addEventListener("DOMContentLoaded", () => void start(document, openView));
} else void start(document, openView);
