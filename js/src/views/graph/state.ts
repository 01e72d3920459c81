import { computed, type ReadonlySignal, type Signal, signal } from "@preact/signals";
import type { AnswerMeta, AnswerTraits } from "../../wire/answer";
import type { ArrayInfo } from "../../wire/arrays";
import type { GraphMeta, GraphTraits } from "../../wire/graph";
import type { Session } from "../../wire/session";
import { divisionOf } from "../answer/division";
import { AnswerState } from "../answer/state";
import type { Division } from "../arrays/state";
import { GraphData } from "./data";
import { type Layout, layoutOf } from "./layout";
import { type Shown, shownOf } from "./shown";

const LEAST_ROOM = 320;

/** The state of the view of a graph: which node is looked at, and what is drawn of the graph. */
export class GraphState extends AnswerState {
  readonly graph: ReadonlySignal<GraphData | null>;
  readonly drawn: ReadonlySignal<Shown>;
  readonly layout: ReadonlySignal<Layout | null>;
  /** The node that is looked at; −1 for none. */
  readonly chosen: ReadonlySignal<number>;
  /** The node under the pointer, else in focus; −1 for none. */
  readonly pointed: Signal<number> = signal(-1);
  /** How wide the drawing may be, in pixels. */
  readonly room: Signal<number> = signal(LEAST_ROOM);
  readonly own: Session<GraphTraits, GraphMeta>;

  constructor(session: Session<GraphTraits, GraphMeta>, dark: ReadonlySignal<boolean>) {
    // What a graph has beyond an answer is read through `own`.
    super(session as unknown as Session<AnswerTraits, AnswerMeta>, dark, DRAWN_OTHERWISE);
    this.own = session;
    const { traits } = session;
    this.graph = computed(() => {
      session.version.value;
      return session.store.value ? new GraphData(session.store.value) : null;
    });
    this.drawn = computed(() => {
      const choice = {
        share: traits.share.value,
        errors: traits.errors.value,
        pins: traits.pins.value,
      };
      return this.graph.value ? shownOf(this.graph.value, choice) : NOTHING;
    });
    this.layout = computed(() => {
      const { value: data } = this.graph;
      return data && layoutOf(data, this.drawn.value.nodes, this.room.value);
    });
    this.chosen = computed(() => this.graph.value?.node(traits.node.value) ?? -1);
  }

  /** Look at a node, or at none; what the kernel knows of it is asked by `ask`. */
  choose(node: number): void {
    const id = this.graph.peek()?.id(node) ?? "";
    if (id !== this.own.traits.node.peek()) this.close();
    this.own.write({ node: id });
  }

  /** Ask the kernel for the page of a node, where there is one. */
  ask(node: number): void {
    const array = this.meta.peek()?.arrays.find(({ name }) => name === "influence");
    if (array) this.open(array, [node]);
  }

  pinned(node: number): boolean {
    return this.own.traits.pins.value.includes(this.graph.value?.id(node) ?? "");
  }

  togglePin(node: number): void {
    const id = this.graph.peek()?.id(node);
    if (!id) return;
    const pins = this.own.traits.pins.peek();
    const without = pins.filter((other) => other !== id);
    this.own.write({ pins: without.length === pins.length ? [...pins, id] : without });
  }
}

/** The arrays of a graph are drawn as its nodes and links, the others as curves and tables. */
const DRAWN_OTHERWISE: Division<AnswerMeta> = {
  grid: () => false,
  curve: (array, meta) => !isOfGraph(array) && BESIDE.curve(array, meta),
  table: (array, meta) => (isOfGraph(array) ? "" : BESIDE.table(array, meta)),
};
const BESIDE = divisionOf("curves");

function isOfGraph({ dims }: ArrayInfo): boolean {
  return dims.includes("node") || dims.includes("link");
}

const NOTHING: Shown = { nodes: [], links: [], more: 0 };
