// Builds everything that the Python package ships, with esbuild:
//
//   src/entries/*.ts  -> layerlens/static/*.js        one ES module a view (anywidget)
//   src/index.css     -> layerlens/static/index.css   of all views
//   src/host/main.ts  -> layerlens/static/host.js     the host of a frozen page, a plain script
//   lab/remoteEntry.ts -> layerlens/labextension/     the prebuilt JupyterLab extension
//
// No chunks: an ES module reaches the browser as one text, so it cannot import relative files.
// One module a view, because a saved notebook carries those of the views that it shows.

import { mkdir, readdir, readFile, stat, writeFile } from "node:fs/promises";
import { dirname, join, parse } from "node:path";
import { fileURLToPath } from "node:url";
import { minify } from "@swc/core";
import esbuild from "esbuild";
import { lean } from "./uplot.mjs";

const here = dirname(fileURLToPath(import.meta.url));
const out = join(here, "..", "layerlens");
const watch = process.argv.includes("--watch");
const LIMIT = 150 * 1024; // bytes of the module of one view

const leanUplot = {
  name: "lean-uplot",
  setup(build) {
    build.onLoad({ filter: /uPlot\.esm\.js$/ }, async ({ path }) => {
      return { contents: lean(await readFile(path, "utf8")) };
    });
  },
};

const shared = {
  absWorkingDir: here,
  bundle: true,
  minify: !watch,
  sourcemap: watch ? "inline" : false,
  target: "es2022",
  jsx: "automatic",
  jsxImportSource: "preact",
  legalComments: "none",
  charset: "utf8",
  loader: { ".svg": "dataurl" },
  logLevel: "warning",
  plugins: [leanUplot],
  define: {
    "process.env.NODE_ENV": watch ? '"development"' : '"production"',
    // Without this a UMD dependency registers itself with a notebook's require.js.
    "define.amd": "false",
  },
};

const views = (await readdir(join(here, "src", "entries"))).map((file) => ({
  ...shared,
  entryPoints: [`src/entries/${file}`],
  outfile: join(out, "static", `${parse(file).name}.js`),
  format: "esm",
}));

const builds = [
  ...views,
  { ...shared, entryPoints: ["src/index.css"], outfile: join(out, "static", "index.css") },
  {
    ...shared,
    entryPoints: ["src/host/main.ts"],
    outfile: join(out, "static", "host.js"),
    format: "iife",
  },
  {
    ...shared,
    entryPoints: ["lab/remoteEntry.ts"],
    outfile: join(out, "labextension", "static", "remoteEntry.js"),
    format: "iife",
  },
];

/** The metadata that JupyterLab's server reads to find the extension and its entry. */
async function writeLabPackage() {
  const { name, version, description, license } = JSON.parse(
    await readFile(join(here, "package.json"), "utf8"),
  );
  const manifest = {
    name,
    version,
    description,
    license,
    jupyterlab: {
      extension: true,
      _build: { load: "static/remoteEntry.js", extension: "./extension" },
    },
  };
  const folder = join(out, "labextension");
  await mkdir(folder, { recursive: true });
  await writeFile(join(folder, "package.json"), `${JSON.stringify(manifest, null, 2)}\n`);
}

/** What esbuild leaves to say more shortly, and calls that are worth their bodies: some 3 %. */
async function shrink({ outfile, format }) {
  const module = format === "esm";
  const { code } = await minify(await readFile(outfile, "utf8"), {
    module,
    compress: { ecma: 2022, passes: 3 },
    mangle: { toplevel: module },
  });
  await writeFile(outfile, code);
}

await writeLabPackage();
if (watch) {
  for (const options of builds) {
    await (await esbuild.context(options)).watch();
  }
  console.log("watching js/ (Ctrl+C stops)");
} else {
  await Promise.all(
    builds.map(async (options) => {
      await esbuild.build(options);
      if (options.format) await shrink(options);
    }),
  );
  for (const { outfile, format } of builds) {
    const { size } = await stat(outfile);
    const name = outfile.slice(out.length + 1);
    console.log(`${(size / 1024).toFixed(1).padStart(7)} KB  ${name}`);
    if (format === "esm" && size > LIMIT) {
      throw new Error(`${name} is ${size} bytes, its limit is ${LIMIT}.`);
    }
  }
}
