import { computed, effect, type ReadonlySignal, type Signal, signal } from "@preact/signals";
import type { HeatMarks } from "../../marks/heattypes";
import type { Cell } from "../../marks/windowing";
import { type ColorScale, divergingScale } from "../../theme/scale";
import type { Distribution, Edit, PatchMeta, PatchRun, PatchTraits } from "../../wire/patch";
import type { Answer, Session } from "../../wire/session";
import type { Anchor } from "../common/canvasgrid";
import { BaseState } from "../common/state";
import { reachOf } from "./cone";
import { PatchData } from "./data";
import { type Drag, type DragEvent, IDLE, sameCell, step } from "./drag";
import { describe, editBetween, inForce, keyOf, targetPlace, withEdit } from "./edits";
import { type Link, linksOf } from "./links";
import { Timeline } from "./timeline";

/** Older runs are forgotten. */
const MOST_RUNS = 50;

interface PatchOptions {
  align?: readonly Link[] | null;
}

function alignOf(options: object): readonly Link[] | null {
  return (options as PatchOptions).align ?? null;
}

/** The state of one patch bench. */
export class PatchState extends BaseState<PatchTraits, PatchMeta> {
  readonly data: ReadonlySignal<PatchData | null>;
  readonly scale: ReadonlySignal<ColorScale>;
  readonly selected: ReadonlySignal<Cell | null>;
  readonly marks: ReadonlySignal<HeatMarks>;
  /** The patches that the panel beside the grid is about; empty when it is about none. */
  readonly subject: ReadonlySignal<Edit[]>;
  /** Which tokens of the two prompts belong together. */
  readonly links: ReadonlySignal<readonly Link[]>;
  /** Whether that was said by hand. */
  readonly ownPairs: ReadonlySignal<boolean>;
  readonly drag: Signal<Drag> = signal(IDLE);
  readonly hover: Signal<Anchor | null> = signal(null);
  /** What the panel shows: the cell that was opened, or all patches of the list together. */
  readonly shown: Signal<"cell" | "list"> = signal("cell");
  /** The cell that was opened, so that its patch is run; a linked view may move the selection on. */
  readonly opened: Signal<Cell | null> = signal(null);
  readonly timeline: Timeline<Edit[]>;
  #asking = new AbortController();
  #question = "";

  constructor(session: Session<PatchTraits, PatchMeta>, dark: ReadonlySignal<boolean>) {
    super(session, dark);
    const { traits } = session;
    this.timeline = new Timeline(traits.edits.peek());
    this.data = computed(() => (session.store.value ? new PatchData(session.store.value) : null));
    this.scale = computed(() =>
      divergingScale(this.palette.value, "Recovered", "fraction of the difference"),
    );
    this.ownPairs = computed(() => Array.isArray(alignOf(traits.options.value)));
    this.links = computed(() => {
      const meta = this.meta.value;
      const own = alignOf(traits.options.value);
      return own ?? (meta ? linksOf(meta.partners, meta.patched) : []);
    });
    this.selected = computed(() => this.#selected());
    this.marks = computed(() => this.#marks());
    this.subject = computed(() => this.#subject());
  }

  /** Begin to follow the session; returns what ends it. */
  attach(): () => void {
    const { traits } = this.session;
    const stops = [
      traits.edits.subscribe((edits) => this.timeline.note(edits)),
      effect(() => this.#ask()),
      effect(() => this.#remember()),
    ];
    return () => {
      for (const stop of stops) stop();
      this.#asking.abort();
      this.#question = "";
    };
  }

  #selected(): Cell | null {
    const { layer, position, head } = this.session.traits;
    const data = this.data.value;
    return (
      data?.cellOf({ point: layer.value, position: data.byHead ? head.value : position.value }) ??
      null
    );
  }

  select(cell: Cell, when: "now" | "soon" = "soon"): void {
    const data = this.data.peek();
    if (!data) return;
    const { point, position } = data.placeOf(cell);
    this.opened.value = null;
    this.session.write({ layer: point, [data.byHead ? "head" : "position"]: position }, when);
  }

  /** The patch of a cell that takes its value from the same place of the other run. */
  editAt(cell: Cell): Edit | null {
    const data = this.data.value;
    if (!data) return null;
    const place = data.placeOf(cell);
    const from = this.#sourceOf(data, place);
    return from && editBetween(data.meta.site, data.meta.by, from, place);
  }

  /** Where the other prompt has what goes to a place; null where its token has no partner. */
  #sourceOf(data: PatchData, place: Cell): Cell | null {
    if (data.byHead) return place;
    const position = data.partner(place.position);
    return position === null ? null : { ...place, position };
  }

  /** Say which tokens belong together; null lets the kernel propose it. */
  pair(links: readonly Link[] | null): void {
    if (links?.length === 0) {
      this.announced.value = "One pair must stay.";
      return;
    }
    const { align: _, ...others } = this.session.traits.options.peek() as PatchOptions;
    this.session.put({ options: links ? { ...others, align: links } : others });
  }

  /** Take a step of the way from source to target, and do what it asks for. */
  gesture(event: DragEvent): void {
    const [drag, outcome] = step(this.drag.peek(), event);
    this.drag.value = drag;
    if (outcome?.kind === "look") this.look(outcome.cell);
    if (outcome?.kind === "patch") {
      // What was read out is what the grid said before; the panel has what the patch brings.
      this.hover.value = null;
      this.patch(outcome.from, outcome.to);
    }
  }

  look(cell: Cell): void {
    this.select(cell, "now");
    this.shown.value = "cell";
    this.opened.value = cell;
  }

  /** Put a patch into the list. */
  patch(from: Cell, to: Cell): void {
    const data = this.data.peek();
    if (!data) return;
    if (data.byHead && from.position !== to.position) {
      this.announced.value = "A head takes its value from the same head of another layer.";
      return;
    }
    const { site, by } = data.meta;
    const source = this.#sourceOf(data, data.placeOf(from));
    if (!source) {
      this.announced.value = "The other prompt has no token there to take a value from.";
      return;
    }
    this.select(to, "now");
    this.add(editBetween(site, by, source, data.placeOf(to)));
  }

  add(edit: Edit): void {
    const { what, from } = describe(edit, this.data.peek());
    this.announced.value = `Patched ${what} ${from}`.trim();
    this.setEdits(withEdit(this.session.traits.edits.peek(), edit));
  }

  setEdits(edits: Edit[]): void {
    this.session.write({ edits });
    this.shown.value = edits.length > 0 ? "list" : "cell";
  }

  undo(): void {
    this.#goTo(this.timeline.undo(), "Undone.");
  }

  redo(): void {
    this.#goTo(this.timeline.redo(), "Done again.");
  }

  #goTo(edits: Edit[] | undefined, said: string): void {
    if (!edits) return;
    this.announced.value = said;
    this.setEdits(edits);
  }

  #subject(): Edit[] {
    if (this.shown.value === "list") return inForce(this.session.traits.edits.value);
    const cell = this.selected.value;
    const edit = cell && sameCell(cell, this.opened.value) ? this.editAt(cell) : null;
    return edit ? [edit] : [];
  }

  #key(): string {
    return `distribution:${keyOf(this.subject.value)}`;
  }

  /** What the kernel said to the patches in the panel; undefined while nothing was asked. */
  answer(): Answer | undefined {
    return this.session.answers.value.get(this.#key());
  }

  /** The newest question replaces one that has not been answered. */
  #ask(): void {
    const edits = this.subject.value;
    const run = this.meta.value?.run;
    const key = this.#key();
    const ready = run !== undefined && this.session.live.value && edits.length > 0;
    const question = ready ? `${run}:${key}` : "";
    if (question === this.#question) return;
    this.#question = question;
    this.#asking.abort();
    this.#asking = new AbortController();
    if (!ready) return;
    void this.session.ask(key, "distribution", { edits }, this.#asking.signal);
  }

  /** Write a run of the list into the history, once. */
  #remember(): void {
    const answer = this.answer();
    const edits = this.subject.value;
    if (this.shown.value !== "list" || !answer || !("reply" in answer)) return;
    const { metric, tokens } = answer.reply.result as Distribution;
    const best = [...tokens].sort((a, b) => b.after - a.after)[0];
    const history = this.session.traits.history.peek();
    const last = history.at(-1);
    if (!best || (last && keyOf(last.edits) === keyOf(edits) && last.metric === metric.after)) {
      return;
    }
    const run: PatchRun = {
      edits,
      metric: metric.after,
      recovered: metric.recovered,
      top: [best.id, best.text, best.after],
    };
    this.session.write({ history: [...history, run].slice(-MOST_RUNS) });
  }

  #marks(): HeatMarks {
    const meta = this.meta.value;
    const drag = this.drag.value;
    const selected = this.selected.value;
    const listed = this.#listed();
    if (!meta) return { source: null, target: null, reach: null, listed };
    let source = this.#listedSource() ?? selected;
    let target = selected;
    if (drag.kind === "dragging") [source, target] = [drag.from, drag.over];
    if (drag.kind === "picked") source = drag.from;
    return { source, target, reach: target && reachOf(target, meta.by), listed };
  }

  /** Where the patch of the list comes from that ends in the selected cell. */
  #listedSource(): Cell | null {
    const data = this.data.value;
    const selected = this.selected.value;
    if (!data || this.shown.value !== "list") return null;
    const { site, by } = data.meta;
    const edit = this.session.traits.edits.value.findLast((other) => {
      const place = targetPlace(other, site, by);
      return selected && place && sameCell(data.cellOf(place), selected);
    });
    if (!edit) return null;
    const come = edit.from.position;
    const position = by === "head" ? edit.head : come === null ? null : data.fromPartner(come);
    return position === null ? null : data.cellOf({ point: edit.from.layer, position });
  }

  #listed(): HeatMarks["listed"] {
    const data = this.data.value;
    if (!data) return [];
    return this.session.traits.edits.value.flatMap((edit, i) => {
      const place = targetPlace(edit, data.meta.site, data.meta.by);
      const cell = place && data.cellOf(place);
      return cell ? [{ cell, label: String(i + 1), on: edit.on }] : [];
    });
  }
}
