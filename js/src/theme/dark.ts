import { type ReadonlySignal, signal } from "@preact/signals";

const ATTRIBUTES = [
  "class",
  "style",
  "theme",
  "data-theme",
  "data-jp-theme-light",
  "data-color-mode",
];

/** Whether the page around us is dark: the notebook's own word first, the system's last. */
export function hostIsDark(doc: Document, systemDark: boolean): boolean {
  const { body, documentElement: html } = doc;
  const jupyter = body?.dataset.jpThemeLight ?? html.dataset.jpThemeLight;
  if (jupyter !== undefined) return jupyter === "false";
  for (const element of [body, html]) {
    if (!element) continue;
    const { classList } = element;
    if (classList.contains("vscode-dark")) return true;
    if (classList.contains("vscode-light")) return false;
    if (classList.contains("vscode-high-contrast")) return true;
    const named =
      element.getAttribute("theme") ??
      element.getAttribute("data-theme") ??
      element.getAttribute("data-color-mode");
    if (named === "dark" || named === "light") return named === "dark";
    if (classList.contains("dark") || classList.contains("dark-theme")) return true;
    if (classList.contains("light") || classList.contains("light-theme")) return false;
  }
  return systemDark;
}

export interface DarkWatch {
  dark: ReadonlySignal<boolean>;
  stop(): void;
}

/** Follow the host's theme until stopped. */
export function watchDark(doc: Document): DarkWatch {
  const media = doc.defaultView?.matchMedia?.("(prefers-color-scheme: dark)");
  const dark = signal(hostIsDark(doc, media?.matches ?? false));
  const update = () => {
    dark.value = hostIsDark(doc, media?.matches ?? false);
  };
  const observer = new MutationObserver(update);
  for (const element of [doc.documentElement, doc.body]) {
    if (element) observer.observe(element, { attributes: true, attributeFilter: ATTRIBUTES });
  }
  media?.addEventListener("change", update);
  return {
    dark,
    stop() {
      observer.disconnect();
      media?.removeEventListener("change", update);
    },
  };
}
