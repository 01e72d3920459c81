import { beforeEach, describe, expect, it, vi } from "vitest";
import { hostIsDark, watchDark } from "../src/theme/dark";

describe("dark hosts", () => {
  beforeEach(() => {
    document.body.className = "";
    document.body.removeAttribute("data-jp-theme-light");
    document.documentElement.removeAttribute("theme");
    vi.stubGlobal("matchMedia", undefined);
  });

  it("believe the notebook before the system", () => {
    document.body.dataset.jpThemeLight = "true";
    expect(hostIsDark(document, true)).toBe(false);
    document.body.dataset.jpThemeLight = "false";
    expect(hostIsDark(document, false)).toBe(true);
  });

  it.each(["vscode-dark", "vscode-high-contrast", "dark"])("know the class %s", (name) => {
    document.body.className = name;
    expect(hostIsDark(document, false)).toBe(true);
  });

  it("know an attribute on the page, and else the system", () => {
    expect(hostIsDark(document, true)).toBe(true);
    document.documentElement.setAttribute("theme", "dark");
    expect(hostIsDark(document, false)).toBe(true);
  });

  it("are followed while they change, until stopped", async () => {
    const watch = watchDark(document);
    expect(watch.dark.value).toBe(false);
    document.body.className = "dark";
    await vi.waitFor(() => expect(watch.dark.value).toBe(true));
    watch.stop();
    document.body.className = "";
    await new Promise((resolve) => setTimeout(resolve));
    expect(watch.dark.value).toBe(true);
  });
});
