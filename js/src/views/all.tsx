import { mount } from "../mount";
import { type Embedded, frozenModel } from "../wire/frozen";
import type { AfmModel } from "../wire/types";
import { openAnswer } from "./answer/open";
import { openAttention } from "./attention/open";
import { openCourse } from "./course/open";
import { openFeature } from "./feature/open";
import { openGeneration } from "./generation/open";
import { openGraph } from "./graph/open";
import { openLens } from "./lens/open";
import { openMetrics } from "./metrics/open";
import type { OpenView } from "./open";
import { openPatch } from "./patch/open";
import { openScatter } from "./scatter/open";
import { openStrip } from "./strip/open";

const VIEWS: Readonly<Record<string, (model: AfmModel) => OpenView>> = {
  attention: openAttention,
  course: (model) =>
    openCourse(model, async (figure, el) => {
      return mount(openView(await frozenModel(figure as Embedded)), el);
    }),
  curves: openAnswer,
  feature: openFeature,
  generation: openGeneration,
  graph: openGraph,
  grid: openAnswer,
  lens: openLens,
  metrics: openMetrics,
  panels: openAnswer,
  patch: openPatch,
  scatter: openScatter,
  strip: openStrip,
};

/** Open the view that the model's trait `view` names. */
export function openView(model: AfmModel): OpenView {
  const name = String(model.get("view") || "lens");
  const open = Object.hasOwn(VIEWS, name) ? VIEWS[name] : undefined;
  return open?.(model) ?? unknown(name);
}

function unknown(name: string): OpenView {
  return {
    element: () => <p role="alert">This page does not know the view “{name}”.</p>,
    dispose() {},
  };
}
