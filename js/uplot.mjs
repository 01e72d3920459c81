// uPlot without what no view uses: about a third of it. The tests run with the same.

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
  "const engNames = \\{",
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
  [/\bsrc == null\b/g, "true"], // no other chart moves the pointer of this one
  [/\b(?:src|syncKey) != null\b/g, "false"],
  [/\bselect\.show && dragging\b/g, "false"], // nothing is selected by dragging
  [/\b(?:sc\.)?distr == (?:4|100)\b/g, "false"], // scales by asinh, or by a function of one's own
];

/** The text of uPlot's module, made smaller. */
export function lean(uplot) {
  let text = uplot;
  for (const start of UNUSED) text = without(text, new RegExp(`^\\s*${start}.*$`, "gm"), start);
  for (const start of UNUSED_BLOCKS) {
    text = without(text, new RegExp(`^(\\t*)${start}[^]*?^\\1[}\\]].*$`, "m"), start);
  }
  for (const [asked, answer] of SETTLED) text = text.replace(asked, answer);
  return text;
}

function without(text, pattern, start) {
  const left = text.replace(pattern, "");
  if (left === text) throw new Error(`uPlot has no ${start} any more.`);
  return left;
}
