import { computed, type ReadonlySignal, type Signal, signal } from "@preact/signals";
import { plain } from "../../marks/text";
import { type Cell, clamp } from "../../marks/windowing";
import { type LineStyle, lineStyle, type Palette, paletteOf } from "../../theme/palette";
import { type ColorScale, makeScale } from "../../theme/scale";
import type { Session, Track } from "../../wire/session";
import type { Pin } from "../../wire/types";
import { LensData } from "./data";

export interface Trajectory {
  pin: Pin;
  style: LineStyle;
  values: (number | null)[];
  /** False: only rows where the token is among the top k are known. */
  full: boolean;
  /** Why a full line could not be had; empty while all is well. */
  problem: string;
}

export interface Popup {
  cell: Cell;
  /** Where the cell is, in pixels from the view's top left. */
  x: number;
  y: number;
}

/**
 * The state of one view: what is synced lives in the session's traits, what belongs to this screen
 * only (hover, popup, chart scale, help) lives here and is never sent.
 */
export class ViewState {
  readonly data: ReadonlySignal<LensData | null>;
  readonly palette: ReadonlySignal<Palette>;
  readonly scale: ReadonlySignal<ColorScale>;
  readonly selected: ReadonlySignal<Cell>;
  readonly trajectories: ReadonlySignal<Trajectory[]>;
  readonly hover: Signal<Popup | null> = signal(null);
  readonly popup: Signal<Popup | null> = signal(null);
  readonly help = signal(false);
  readonly logChart = signal(false);
  readonly announced = signal("");

  constructor(
    readonly session: Session,
    readonly dark: ReadonlySignal<boolean>,
  ) {
    const { traits } = session;
    this.data = computed(() => (session.store.value ? new LensData(session.store.value) : null));
    this.palette = computed(() => {
      const choice = traits.theme.value;
      return paletteOf(choice === "auto" ? dark.value : choice === "dark");
    });
    this.scale = computed(() => this.#scale());
    this.selected = computed(() => {
      const data = this.data.value;
      if (!data) return { point: 0, position: 0 };
      return {
        point: fromEnd(traits.row.value, data.points),
        position: fromEnd(traits.position.value, data.positions),
      };
    });
    this.trajectories = computed(() => this.#trajectories());
  }

  #scale(): ColorScale {
    const { traits, version } = this.session;
    const data = this.data.value;
    const mode = traits.color.value;
    // Only the divergence has a range that depends on what has arrived.
    if (mode === "kl") version.value;
    return makeScale({
      mode,
      palette: this.palette.value,
      vocabulary: data?.meta.d_vocab ?? 2,
      klMax: mode === "kl" ? (data?.klMax() ?? 1) : 1,
      trackedText: plain(data?.meta.tracked[traits.tracked.value]?.text ?? ""),
    });
  }

  select(cell: Cell, when: "now" | "soon" = "soon"): void {
    const layer = this.data.peek()?.meta.layers[cell.point];
    this.session.write(
      { row: cell.point, position: cell.position, ...(layer === undefined ? {} : { layer }) },
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
    return `${this.data.peek()?.meta.run ?? 0}:${pin.position}:${pin.id}`;
  }

  #trajectories(): Trajectory[] {
    this.session.version.value;
    const data = this.data.value;
    const tracks = this.session.tracks.value;
    if (!data) return [];
    return this.session.traits.pins.value.map((pin, index) => {
      const track = tracks.get(this.#key(pin));
      const asked = track !== undefined && track !== "asked";
      const values =
        asked && "values" in track ? track.values : data.trajectory(pin.position, pin.id);
      const full = values.every((v, point) => v !== null || !data.arrived(point));
      const problem = asked && "problem" in track ? track.problem : "";
      return { pin, style: lineStyle(index), values, full, problem };
    });
  }

  /**
   * Ask the kernel for the lines that are not whole yet, once each; never called while drawing.
   */
  async askTracks(): Promise<void> {
    const data = this.data.peek();
    if (!data?.store.complete || !this.session.live.peek()) return;
    for (const { pin, full } of this.trajectories.peek()) {
      const key = this.#key(pin);
      if (full || this.session.tracks.peek().has(key) || pin.position >= data.positions) continue;
      this.#note(key, "asked");
      try {
        const { result } = await this.session.rpc.request("track", pin);
        const { probability } = result as { probability: (number | null)[] };
        this.#note(key, { values: probability });
      } catch (error) {
        if ((error as Error).name === "AbortError") return;
        this.#note(key, { problem: (error as Error).message });
      }
    }
  }

  #note(key: string, track: Track): void {
    const { tracks } = this.session;
    tracks.value = new Map(tracks.peek()).set(key, track);
  }
}

/** Negative indices count from the end; anything else is brought into range. */
export function fromEnd(index: number, count: number): number {
  return clamp(index < 0 ? count + index : index, 0, Math.max(0, count - 1));
}
