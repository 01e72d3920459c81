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
import esbuild from "esbuild";

const here = dirname(fileURLToPath(import.meta.url));
const out = join(here, "..", "layerlens");
const watch = process.argv.includes("--watch");
const LIMIT = 150 * 1024; // bytes of the module of one view

/**
 * Lines of uPlot that are left out of every bundle, by their beginnings: other kinds of paths, axes of
 * time with all that writes dates, joining tables, the legend.
 */
const UNUSED = [
  ...["stepped", "bars", "spline"].map((kind) => `\\(paths\\.${kind}\\s*=`),
  "let isTime = ",
  "const showLegend = ",
  ...["_tzDate", "_fmtDate", "_timeAxisSplits", "_timeAxisVals", "_timeSeriesVal"].map(
    (name) => `const ${name}\\s*=`,
  ),
  ...["timeIncrsMs", "timeIncrsS"].map((name) => `const \\[ ${name},`),
  ...["fmtDate", "tzDate", "join"].map((name) => `uPlot\\.${name}\\s*=`),
  ...["days3", "months3"].map((name) => `const ${name} =`),
  ...["mousedown", "mouseup", "dblclick"].map((name) => `events\\.${name} =`),
  ...["mousedown", "dblclick"].map((name) => `onMouse\\(${name},\\s*over`),
];

/** The same of whole blocks, to the line that closes them: names in dates, the legend, dragging. */
const UNUSED_BLOCKS = [
  ...["months", "days"].map((name) => `const ${name} = \\[`),
  ...["initLegendRow", "mouseDown", "mouseUp", "dblClick"].map((name) => `function ${name}\\(`),
];

/** What uPlot asks of its options, and what the answer always is here. */
const SETTLED = [
  [/\bisTime\b/g, "false"],
  [/\bshowLegend\b/g, "false"],
  [/\bmode == 1\b/g, "true"], // places that all lines share; 2 would be scattered points
  [/\bmode == 2\b/g, "false"],
  [/\b(?:scaleX|sx)\.ori == 0\b/g, "true"], // places lie from left to right
  [/\bscaleX\.ori == 1\b/g, "false"],
  [/\bselect\.show && dragging\b/g, "false"], // nothing is selected by dragging
  [/\b(?:sc\.)?distr == (?:4|100)\b/g, "false"], // scales by asinh, or by a function of one's own
];

const lean = {
  name: "lean-uplot",
  setup(build) {
    build.onLoad({ filter: /uPlot\.esm\.js$/ }, async ({ path }) => {
      let contents = await readFile(path, "utf8");
      for (const start of UNUSED) {
        const line = new RegExp(`^\\s*${start}.*$`, "gm");
        if (!line.test(contents)) throw new Error(`uPlot has no line ${start} any more.`);
        contents = contents.replace(line, "");
      }
      for (const start of UNUSED_BLOCKS) {
        const block = new RegExp(`^(\\t*)${start}[^]*?^\\1[}\\]].*$`, "m");
        if (!block.test(contents)) throw new Error(`uPlot has no block ${start} any more.`);
        contents = contents.replace(block, "");
      }
      for (const [asked, answer] of SETTLED) contents = contents.replace(asked, answer);
      return { contents };
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
  plugins: [lean],
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

await writeLabPackage();
if (watch) {
  for (const options of builds) {
    await (await esbuild.context(options)).watch();
  }
  console.log("watching js/ (Ctrl+C stops)");
} else {
  await Promise.all(builds.map((options) => esbuild.build(options)));
  for (const { outfile, format } of builds) {
    const { size } = await stat(outfile);
    const name = outfile.slice(out.length + 1);
    console.log(`${(size / 1024).toFixed(1).padStart(7)} KB  ${name}`);
    if (format === "esm" && size > LIMIT) {
      throw new Error(`${name} is ${size} bytes, its limit is ${LIMIT}.`);
    }
  }
}
