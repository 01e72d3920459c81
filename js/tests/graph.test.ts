import { beforeEach, describe, expect, it, vi } from "vitest";
import { GraphData } from "../src/views/graph/data";
import { beside, layoutOf } from "../src/views/graph/layout";
import { sentence } from "../src/views/graph/names";
import { MOST_LINKS, shownOf } from "../src/views/graph/shown";
import { GRAPH, type GraphMeta } from "../src/wire/graph";
import { RunStore } from "../src/wire/store";
import { FakeModel, makeAnswerMeta, makeBlocks } from "./fixtures";
import { stubBrowser, widget } from "./page";

const IDS = ["E_5_0", "E_6_1", "0_7_1", "0_-1_1", "1_8_1", "3_9_1"];

function meta(nodes = IDS, links = 6): GraphMeta {
  const axis = (size: number) => ({ size, labels: [], numbers: null, long_name: "" });
  return {
    ...makeAnswerMeta({ n_layers: 2, lead: "Tokens below.", doses: [], arrays: [], opens: "" }),
    axes: { node: axis(nodes.length), link: axis(links) },
    tokens: { text: ["a", " b"].map((text, id) => ({ id, text, cont: false })) },
    graph: {
      kinds: ["token", "feature", "error", "output"],
      ids: nodes,
      words: nodes.map((id) => (id === "3_9_1" ? " c" : id === "0_7_1" ? "a b" : "")),
    },
  };
}

/** Two tokens, a strong and a weak feature, an error between them, an answer. */
function frame() {
  const none = Number.NaN;
  const made = makeBlocks(
    1,
    [
      ["activation", ["node"], [0], [6], [none, none, 2.5, none, 0.5, none]],
      ["probability", ["node"], [0], [6], [none, none, none, none, none, 0.6]],
      ["influence", ["node"], [0], [6], [0.3, 0.1, 0.4, 0.15, 0.05, 0]],
      ["cumulative_influence", ["node"], [0], [6], [0.7, 0.95, 0.4, 0.85, 1, 1]],
      ["weight", ["link"], [0], [6], [1, -3, 2, 0.5, -0.25, 4]],
      ["link_influence", ["link"], [0], [6], [0.1, 0.3, 0.4, 0.05, 0.02, 0.15]],
    ],
    true,
  );
  const whole: [string, string, number[]][] = [
    ["kind", "node", [0, 0, 1, 2, 1, 3]],
    ["node_layer", "node", [-1, -1, 0, 0, 1, 2]],
    ["node_position", "node", [0, 1, 1, 1, 1, 1]],
    ["feature", "node", [5, 6, 7, -1, 8, 9]],
    ["source", "link", [0, 1, 2, 2, 4, 3]],
    ["target", "link", [2, 2, 5, 4, 5, 5]],
  ];
  for (const [name, dim, values] of whole) {
    made.header.arrays.push({ name, dims: [dim], dtype: "int32", start: [0], shape: [6] });
    made.buffers.push(new DataView(Int32Array.from(values).buffer));
  }
  return made;
}

function graph(): GraphData {
  const store = new RunStore(meta(), GRAPH as never) as RunStore<GraphMeta>;
  const { header, buffers } = frame();
  store.apply(header, buffers);
  return new GraphData(store);
}

const ALL = { share: 1, errors: true, pins: [] };

describe("a graph", () => {
  it("knows what enters and leaves a node, the strongest first", () => {
    const data = graph();
    expect(data.inputs[2]?.map(({ source }) => source)).toEqual([1, 0]);
    expect(data.outputs[2]?.map(({ target }) => target)).toEqual([5, 4]);
    expect(sentence(data, 2)).toBe(
      "feature 7; layer 0, position 1, “ b”; a b; activation 2.5; 40 % of the answers; 2 in, 2 out",
    );
  });

  it("draws the strongest nodes that have the share, and the ends of the graph", () => {
    const data = graph();
    expect(shownOf(data, ALL).nodes).toEqual([0, 1, 2, 3, 4, 5]);
    const half = shownOf(data, { ...ALL, share: 0.5 });
    expect(half.nodes).toEqual([0, 1, 2, 5]);
    // The weakest comes first, so that the strongest is drawn on top.
    expect(half.links.map(({ index }) => index)).toEqual([0, 1, 2]);
    expect(shownOf(data, { ...ALL, errors: false }).nodes).toEqual([0, 1, 2, 4, 5]);
    expect(shownOf(data, { ...ALL, share: 0.5, pins: ["0_-1_1"] }).nodes).toEqual([0, 1, 2, 3, 5]);
  });

  it("leaves out the weakest of very many links and says how many", () => {
    const data = graph();
    const link = data.links[0];
    const many = Array.from({ length: MOST_LINKS + 5 }, (_, i) => ({ ...link, influence: i }));
    Object.defineProperty(data, "links", { value: many });
    const shown = shownOf(data, ALL);
    expect([shown.links.length, shown.more, shown.links[0]?.influence]).toEqual([MOST_LINKS, 5, 5]);
  });

  it("stands in rows of layers, answers on top, and fills its room", () => {
    const data = graph();
    const layout = layoutOf(data, [0, 1, 2, 3, 4, 5], 700);
    expect(layout.rows.map(({ layer }) => layer)).toEqual([2, 1, 0, -1]);
    expect(layout.width).toBeCloseTo(698, 0);
    const [feature, error] = [layout.places.get(2), layout.places.get(3)];
    expect(feature?.y).toBe(error?.y);
    // The stronger of a cell stands to the left.
    expect(feature?.x).toBeLessThan(error?.x ?? 0);
  });

  it("is walked by arrows", () => {
    const layout = layoutOf(graph(), [0, 1, 2, 3, 4, 5], 700);
    expect(beside(layout, 2, "ArrowRight")).toBe(3);
    expect(beside(layout, 2, "ArrowLeft")).toBe(2);
    expect(beside(layout, 2, "ArrowUp")).toBe(4);
    expect(beside(layout, 2, "ArrowDown")).toBe(1);
    expect(beside(layout, 1, "ArrowLeft")).toBe(0);
  });
});

describe("the view of a graph", () => {
  beforeEach(() => {
    stubBrowser();
    document.body.replaceChildren();
  });

  async function view(over: Record<string, unknown> = {}) {
    const status = { state: "done", run: 1, done: 1, total: 1, what: "", message: "", seconds: 1 };
    const model = new FakeModel({ view: "graph", live: true, meta: meta(), status, ...over });
    const { initialize, render } = await widget("graph");
    const el = document.createElement("div");
    document.body.append(el);
    initialize({ model });
    render({ model, el });
    const { header, buffers } = frame();
    model.message({ kind: "frame", ...header }, buffers);
    await vi.waitFor(() => expect(el.querySelectorAll(".ll-node")).toHaveLength(6));
    const node = (index: number) => el.querySelector(`[data-node="${index}"]`) as SVGGElement;
    const press = (index: number, key: string) =>
      node(index).dispatchEvent(new KeyboardEvent("keydown", { key, bubbles: true }));
    return { el, model, node, press };
  }

  it("lists what enters and leaves the chosen node, and goes on from there", async () => {
    const { el, model, node } = await view();
    node(2).dispatchEvent(new MouseEvent("click", { bubbles: true }));
    expect(model.get("node")).toBe("0_7_1");
    await vi.waitFor(() => expect(el.querySelectorAll(".ll-neighbours table")).toHaveLength(2));
    const [inputs] = el.querySelectorAll(".ll-neighbours table");
    expect(inputs?.querySelector("tbody tr")?.textContent).toBe("␣bposition 1−330 %");
    inputs?.querySelector<HTMLButtonElement>("tbody button")?.click();
    expect(model.get("node")).toBe("E_6_1");
  });

  it("is gone through by keys: along links, to pin, to choose none", async () => {
    const { model, press, node } = await view({ node: "0_7_1" });
    press(2, "i");
    expect(model.get("node")).toBe("E_6_1");
    await vi.waitFor(() => expect(document.activeElement).toBe(node(1)));
    press(1, "p");
    expect(model.get("pins")).toEqual(["E_6_1"]);
    press(1, "Escape");
    expect(model.get("node")).toBe("");
  });

  it("is reached by Tab at one node, and each says what it is", async () => {
    const { el } = await view();
    const reached = Array.from(el.querySelectorAll(".ll-node"), (one) =>
      one.getAttribute("tabindex"),
    );
    expect(reached.filter((index) => index === "0")).toHaveLength(1);
    expect(el.querySelector(".ll-node-output")?.getAttribute("aria-label")).toBe(
      "␣c 0.6; output; 3 in, 0 out",
    );
  });

  it("draws what it is told to", async () => {
    const { el, model } = await view();
    const range = el.querySelector<HTMLInputElement>(".ll-graph-bar input");
    if (range) range.value = "0.5";
    range?.dispatchEvent(new Event("input", { bubbles: true }));
    await vi.waitFor(() => expect(el.querySelectorAll(".ll-node")).toHaveLength(4));
    await vi.waitFor(() => expect(model.get("share")).toBe(0.5));
    expect(el.querySelector(".ll-graph-bar [role=status]")?.textContent).toBe(
      "4 of 6 nodes, 3 of 6 links",
    );
  });
});
