import { defineConfig } from "vitest/config";
import { lean } from "./uplot.mjs";

export default defineConfig({
  oxc: { jsx: { runtime: "automatic", importSource: "preact" } },
  plugins: [
    {
      name: "lean-uplot",
      transform: (code, id) => (/uPlot\.esm\.js/.test(id) ? { code: lean(code), map: null } : null),
    },
  ],
  resolve: { alias: { uplot: "uplot/dist/uPlot.esm.js" } },
  test: {
    environment: "jsdom",
    include: ["tests/**/*.test.{ts,tsx}"],
    passWithNoTests: true,
    restoreMocks: true,
    // As it is in the bundles: what was left out of it and is used all the same is found here.
    server: { deps: { inline: ["uplot"] } },
  },
});
