import { computed, type ReadonlySignal, type Signal, signal } from "@preact/signals";
import { plain } from "../../marks/text";
import { type Cell, clamp } from "../../marks/windowing";
import { type LineStyle, lineStyle } from "../../theme/palette";
import { type ColorScale, divergingScale, makeScale, rangeScale } from "../../theme/scale";
import type { LensMeta, LensTraits, Pin } from "../../wire/lens";
import type { Session } from "../../wire/session";
import type { RunStore } from "../../wire/store";
import type { Anchor } from "../common/canvasgrid";
import { BaseState } from "../common/state";
import { LensData } from "./data";
import { DifferenceData } from "./difference";
import { type Score, scoresOf } from "./scores";

export interface Trajectory {
  pin: Pin;
  style: LineStyle;
  values: (number | null)[];
  /** False: only rows where the token is among the top k are known. */
  full: boolean;
  /** Why a full line could not be had; empty while all is well. */
  problem: string;
  /** Through which of several lenses; "" where there is one. */
  lens: string;
}

/** The state of one lens: what is pointed at and opened on this screen, and what follows from it. */
export class ViewState extends BaseState<LensTraits, LensMeta> {
  readonly data: ReadonlySignal<LensData | null>;
  readonly scale: ReadonlySignal<ColorScale>;
  readonly selected: ReadonlySignal<Cell>;
  readonly trajectories: ReadonlySignal<Trajectory[]>;
  /** How each lens does at each row; none for the logit lens alone. */
  readonly scores: ReadonlySignal<Score[]>;
  readonly hover: Signal<Anchor | null> = signal(null);
  readonly popup: Signal<Anchor | null> = signal(null);
  /** How wide a column is, chosen or as there is room. */
  readonly columnWidth = signal(72);

  constructor(session: Session<LensTraits, LensMeta>, dark: ReadonlySignal<boolean>) {
    super(session, dark);
    const { traits } = session;
    this.data = computed(() => (session.store.value ? this.makeData(session.store.value) : null));
    this.scale = computed(() => this.makeScale());
    this.selected = computed(() => {
      const data = this.data.value;
      if (!data) return { point: 0, position: 0 };
      return {
        point: rowOf(traits.layer.value, fromEnd(traits.row.value, data.points), data.meta.layers),
        position: this.column(data),
      };
    });
    this.trajectories = computed(() => this.#trajectories());
    this.scores = computed(() => {
      session.version.value;
      return session.store.value ? scoresOf(session.store.value) : [];
    });
  }

  /** The column that is looked at. */
  protected get place(): Signal<number> {
    return this.session.traits.position;
  }

  protected column(data: LensData): number {
    return fromEnd(this.place.value, data.positions);
  }

  protected placed(position: number): Partial<LensTraits> {
    return { position };
  }

  /** Write on from a token; null where nothing is written. */
  readonly branch: ((cell: Cell, id: number) => void) | null = null;

  /** Why nothing can be written on from a token; empty where it can. */
  noBranch(_cell: Cell, _id: number): string {
    return "";
  }

  protected makeData(store: RunStore<LensMeta>): LensData {
    const compare = this.session.traits.compare.value;
    if (!this.compared) return new LensData(store, "", this.through);
    if (compare === "beside") return new LensData(store, "", this.against);
    return new DifferenceData(store, compare as "change" | "kl", this.through);
  }

  /** Which of several lenses is looked at. */
  get through(): number {
    return clamp(this.session.traits.through.value, 0, Math.max(0, this.several - 1));
  }

  /** How many lenses read this pass, where there are several. */
  get several(): number {
    const count = this.meta.value?.lenses?.length ?? 0;
    return count > 1 ? count : 0;
  }

  /** The one of several lenses that the others are compared with. */
  get against(): number {
    return this.meta.value?.against ?? 0;
  }

  /** Whether two lenses are shown: of two runs, or two of several. */
  get compared(): boolean {
    const two = Boolean(this.meta.value?.other) || this.through !== this.against;
    return two && this.session.traits.compare.value !== "alone";
  }

  /** Whether a second lens is shown beside this one. */
  get beside(): boolean {
    return this.compared && this.session.traits.compare.value === "beside";
  }

  protected makeScale(): ColorScale {
    const { traits, version } = this.session;
    const data = this.data.value;
    if (data instanceof DifferenceData) {
      const name = data.meta.lenses?.[data.other]?.name;
      if (data.compare === "change") {
        const words = name ? `${name} − ${data.name}` : "other − this";
        return divergingScale(this.palette.value, "Change of P(top token)", words);
      }
      version.value;
      const label = name ? `KL to the ${name} lens` : "KL to the other";
      return rangeScale(this.palette.value, 0, data.end(), label, "nats, or more");
    }
    const mode = traits.color.value;
    // Only the divergence has a range that depends on what has arrived.
    if (mode === "kl") version.value;
    return makeScale({
      mode,
      palette: this.palette.value,
      vocabulary: data?.meta.d_vocab ?? 2,
      klMax: mode === "kl" ? (data?.klMax() ?? 1) : 1,
      ranked: data?.ranked,
      trackedText: plain(data?.meta.tracked[traits.tracked.value]?.text ?? ""),
    });
  }

  select(cell: Cell, when: "now" | "soon" = "soon"): void {
    const layer = this.data.peek()?.meta.layers[cell.point];
    this.session.write(
      {
        row: cell.point,
        ...this.placed(cell.position),
        ...(layer === undefined ? {} : { layer }),
      },
      when,
    );
  }

  isPinned(pin: Pin): boolean {
    return this.session.traits.pins.value.some(
      (p) => p.id === pin.id && p.position === pin.position,
    );
  }

  togglePin(pin: Pin): void {
    const pins = this.session.traits.pins.peek();
    const without = pins.filter((p) => p.id !== pin.id || p.position !== pin.position);
    const name = plain(this.data.peek()?.tokenName(pin.id) ?? "");
    if (without.length === pins.length) {
      this.session.write({ pins: [...pins, pin] });
      this.announced.value = `Pinned ${name} at position ${pin.position}.`;
    } else {
      this.session.write({ pins: without });
      this.announced.value = `Unpinned ${name}.`;
    }
  }

  /** Colour the table by one token; a token not followed yet needs a new run. */
  colorBy(id: number): void {
    const data = this.data.peek();
    const { options, text } = this.session.traits;
    if (!data) return;
    const index = data.trackedIndex(id);
    if (index >= 0) {
      this.session.write({ color: "tracked", tracked: index });
      return;
    }
    const tracked = [...data.meta.tracked.map((token) => token.id), id];
    const wanted = { ...options.peek(), tracked };
    this.session.write({ options: wanted, color: "tracked", tracked: tracked.length - 1 });
    this.session.send({ kind: "run", text: text.peek(), options: wanted });
  }

  #key(pin: Pin): string {
    return `track:${pin.position}:${pin.id}`;
  }

  #trajectories(): Trajectory[] {
    this.session.version.value;
    const data = this.data.value;
    const answers = this.session.answers.value;
    if (!data) return [];
    const { store } = data;
    const lenses = this.several && this.compared ? [this.against, this.through] : [this.through];
    return this.session.traits.pins.value.flatMap((pin, index) =>
      lenses.map((lens, place) => {
        const read = new LensData(store, "", lens);
        const answer = answers.get(this.#key(pin));
        const values =
          answer && "reply" in answer
            ? ofLens((answer.reply.result as { probability: Line | Line[] }).probability, lens)
            : read.trajectory(pin.position, pin.id);
        const full = values.every((v, point) => v !== null || !data.arrived(point));
        const problem = answer && "problem" in answer ? answer.problem : "";
        const plainStyle = lineStyle(index);
        const style = place > 0 ? { ...plainStyle, dash: [1, 3] } : plainStyle;
        return { pin, style, values, full, problem, lens: this.several ? read.name : "" };
      }),
    );
  }

  /**
   * Ask the kernel for the lines that are not whole yet, once each; never called while drawing.
   */
  async askTracks(): Promise<void> {
    const data = this.data.peek();
    if (!data?.store.complete || !this.session.live.peek()) return;
    for (const { pin, full } of this.trajectories.peek()) {
      if (full || pin.position >= data.positions) continue;
      await this.session.ask(this.#key(pin), "track", pin);
    }
  }
}

type Line = (number | null)[];

/** A line that the kernel has sent: one alone, or one through each of several lenses. */
function ofLens(lines: Line | Line[], lens: number): Line {
  const first = lines[0];
  return Array.isArray(first) ? ((lines[lens] as Line | undefined) ?? first) : (lines as Line);
}

/** The other lens of two: the same row and position, with numbers of its own. */
export class OtherState extends ViewState {
  protected override makeData(store: RunStore<LensMeta>): LensData {
    return this.several ? new LensData(store, "", this.through) : new LensData(store, "other_");
  }

  /** What it is called. */
  get label(): string {
    return this.meta.value?.other?.label ?? `${this.data.value?.name} lens`;
  }
}

/** Negative indices count from the end; anything else is brought into range. */
export function fromEnd(index: number, count: number): number {
  return clamp(index < 0 ? count + index : index, 0, Math.max(0, count - 1));
}

/**
 * The row that is shown when row and layer disagree: a linked view has moved the layer, and the
 * kernel, which moves the row after it, may be busy or gone. -1 is no layer in some views.
 */
export function rowOf(layer: number, row: number, layers: readonly number[]): number {
  if (layer < 0 || layers[row] === layer || layers.length === 0) return row;
  let best = row;
  let least = Number.POSITIVE_INFINITY;
  layers.forEach((other, i) => {
    const far = Math.abs(other - layer);
    if (far > least) return;
    least = far;
    best = i;
  });
  return best;
}
