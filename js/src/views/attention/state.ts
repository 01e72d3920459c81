import { computed, effect, type ReadonlySignal, type Signal, signal } from "@preact/signals";
import type { Ends } from "../../marks/links";
import { packed, type Square } from "../../marks/square";
import { clamp } from "../../marks/windowing";
import { type ColorScale, rangeScale, weightScale } from "../../theme/scale";
import type {
  AttentionMeta,
  AttentionTraits,
  Side,
  SliceKey,
  Weighting,
} from "../../wire/attention";
import type { Session } from "../../wire/session";
import type { Slice } from "../../wire/slice";
import type { Anchor } from "../common/canvasgrid";
import { BaseState } from "../common/state";
import { SquareCache, ThumbCache } from "./cache";
import { AttentionData, layerIndex, WEIGHTINGS } from "./data";
import { Slices } from "./slices";
import { differenceOf, massOn } from "./squares";

/** What one square shows. */
export type Shows = "first" | "second" | "difference";

/** A token pointed at in the lines, or a pair of them in the matrix; -1 for none. */
export interface Spot {
  query: number;
  key: number;
}

/** Layers on each side of the present one that are fetched before they are asked for. */
const AHEAD = 3;

/** The state of one view of attention. */
export class AttentionState extends BaseState<AttentionTraits, AttentionMeta> {
  readonly data: ReadonlySignal<AttentionData | null>;
  readonly slices: Slices;
  /** Index of the layer that is shown, among those that were computed. */
  readonly layerIndex: ReadonlySignal<number>;
  /** Its number. */
  readonly layer: ReadonlySignal<number>;
  readonly head: ReadonlySignal<number>;
  /** The heads that are on. */
  readonly on: ReadonlySignal<number[]>;
  /** The heads that are drawn large: one, or those that are on. */
  readonly large: ReadonlySignal<number[]>;
  readonly part: ReadonlySignal<string>;
  readonly weighting: ReadonlySignal<Weighting>;
  readonly squares: Readonly<Record<Shows, ReadonlySignal<Square | null>>>;
  readonly thumbs = new ThumbCache();
  /** The pixels of the small pictures, by their bytes. */
  readonly smallColors: ReadonlySignal<Uint32Array>;
  readonly #cache = new SquareCache();
  readonly #scales: Readonly<Record<Shows, ReadonlySignal<ColorScale>>>;
  /** Which column of tokens the keyboard is in. */
  readonly side: Signal<Side> = signal("query");
  /** What the pointer is over. */
  readonly hover: Signal<Spot | null> = signal(null);
  /** Where its numbers are to be written. */
  readonly tip: Signal<{ at: Anchor; shows: Shows; spot: Spot } | null> = signal(null);

  constructor(session: Session<AttentionTraits, AttentionMeta>, dark: ReadonlySignal<boolean>) {
    super(session, dark);
    const { traits } = session;
    this.slices = new Slices(session);
    this.data = computed(() =>
      session.store.value ? new AttentionData(session.store.value, this.part.value) : null,
    );
    this.layerIndex = computed(() => layerIndex(this.#layers(), traits.layer.value));
    this.layer = computed(() => this.#layers()[this.layerIndex.value] ?? 0);
    this.on = computed(() => {
      const all = Array.from({ length: this.#heads() }, (_, head) => head);
      const chosen = all.filter((head) => traits.shown.value.includes(head));
      return chosen.length > 0 ? chosen : all;
    });
    this.head = computed(() => {
      const own = traits.head.value;
      return own < 0 ? (this.on.value[0] ?? 0) : clamp(own, 0, this.#heads() - 1);
    });
    this.large = computed(() =>
      traits.reduce.value === "one" ? [this.head.value] : this.on.value,
    );
    this.part = computed(() => {
      const parts = this.meta.value?.parts ?? [];
      return parts.includes(traits.part.value) ? traits.part.value : (parts[0] ?? "self");
    });
    this.weighting = computed(() => {
      const known = this.meta.value?.weightings ?? [];
      return known.includes(traits.weighting.value)
        ? traits.weighting.value
        : (known[0] ?? "pattern");
    });
    const first = computed(() => this.#square(false));
    const second = computed(() => this.#square(true));
    const difference = computed(() => {
      const [one, other] = [first.value, second.value];
      return one && other && differenceOf(one, other);
    });
    this.squares = { first, second, difference };
    this.#scales = {
      first: computed(() => this.#scale("first")),
      second: computed(() => this.#scale("second")),
      difference: computed(() => this.#scale("difference")),
    };
    this.smallColors = computed(() => {
      const { colors } = weightScale(this.palette.value, 1, "");
      return Uint32Array.from(colors, packed);
    });
  }

  #heads(): number {
    return this.data.value?.first.n_heads ?? 1;
  }

  #layers(): readonly number[] {
    return this.data.value?.first.layers ?? [];
  }

  /** Ask for what is shown, and again as the run comes further; until the view is taken away. */
  attach(): () => void {
    const { traits } = this.session;
    const stops = [
      effect(() => this.slices.want(this.#wanted())),
      effect(() => {
        traits.status.value;
        this.slices.again();
      }),
    ];
    return () => {
      for (const stop of stops) stop();
      this.slices.dispose();
    };
  }

  /** What is shown first, then the layers around it. */
  #wanted(): SliceKey[] {
    this.session.version.value;
    this.session.live.value;
    const data = this.data.value;
    if (!data) return [];
    const { layers } = data.first;
    const at = this.layerIndex.value;
    const out: SliceKey[] = [];
    for (let far = 0; far <= AHEAD; far++) {
      for (const index of far ? [at + far, at - far] : [at]) {
        const layer = layers[index];
        if (layer === undefined) continue;
        out.push(this.key(false, layer));
        if (this.comparing()) out.push(this.key(true, layer));
      }
    }
    return out;
  }

  /** Whether the second text is drawn at all. */
  comparing(): boolean {
    return this.session.traits.compare.value !== "first" && Boolean(this.meta.value?.other);
  }

  /** A layer of the first text, or the one of the second that stands for it. */
  key(other: boolean, layer = this.layer.value): SliceKey {
    const layers = this.data.value?.text(other).layers ?? [];
    const own = layers[layerIndex(layers, layer)] ?? layer;
    return { layer: own, part: this.part.value, weighting: this.weighting.value, other };
  }

  slice(other: boolean): Slice | null {
    return this.data.value && this.slices.get(this.key(other));
  }

  /** The keys whose weights are left out; null where all are drawn. */
  left(other: boolean): boolean[] | null {
    return this.session.traits.mask_sinks.value ? (this.data.value?.sinks(other) ?? null) : null;
  }

  /** The share of all weight on the keys that are left out. */
  leftMass(): number | null {
    const slice = this.slice(false);
    const left = this.left(false);
    return slice && left && massOn(slice, this.large.value, left);
  }

  #square(other: boolean): Square | null {
    const slice = this.slice(other);
    if (!slice) return null;
    const heads = this.large.value.filter((head) => head < slice.heads);
    if (heads.length === 0) return null;
    return this.#cache.of(slice, heads, this.session.traits.reduce.value, this.left(other));
  }

  /** Whether both texts have as many tokens, so that there is a difference. */
  alike(): boolean {
    const data = this.data.value;
    return (
      data?.meta.other?.tokens.length === data?.queries(false).length &&
      data?.keys(true).length === data?.keys(false).length
    );
  }

  /** The squares that are drawn large, from left to right. */
  sides(): Shows[] {
    const compare = this.comparing() ? this.session.traits.compare.value : "first";
    const both = compare === "beside" || (compare === "difference" && !this.alike());
    return both ? ["first", "second"] : [compare as Shows];
  }

  /** The colours of a square. */
  scale(shows: Shows): ColorScale {
    return this.#scales[shows].value;
  }

  /** Both texts share one scale, so that they can be compared. */
  #scale(shows: Shows): ColorScale {
    const { quantity } = WEIGHTINGS[this.weighting.value];
    const palette = this.palette.value;
    if (shows === "difference") {
      const most = this.squares.difference.value?.high ?? 1;
      return rangeScale(palette, -(most || 1), most || 1, `${quantity}, second − first`, "");
    }
    const both = this.sides().length > 1 ? (["first", "second"] as const) : [shows];
    const drawn = both.map((name) => this.squares[name].value).filter((one) => one !== null);
    const low = Math.min(0, ...drawn.map((square) => square.low));
    const high = Math.max(0, ...drawn.map((square) => square.high));
    if (low < 0) return rangeScale(palette, low, high, quantity, "");
    return weightScale(palette, high, quantity);
  }

  /** The tokens that lines are drawn for alone: under the pointer, else pinned. Null for all. */
  isolated(): Ends | null {
    const over = this.hover.value;
    if (over) return { queries: set(over.query), keys: over.query < 0 ? set(over.key) : set(-1) };
    return this.session.traits.pins.value.length > 0 ? this.pinned() : null;
  }

  pinned(): Ends {
    const pins = this.session.traits.pins.value;
    const of = (side: Side) =>
      new Set(pins.filter((pin) => (pin.side ?? "query") === side).map((pin) => pin.position));
    return { queries: of("query"), keys: of("key") };
  }

  /** Let go of what is pinned and selected; whether there was something. */
  clear(): boolean {
    const { pins, query, key } = this.session.traits;
    if (pins.peek().length === 0 && query.peek() < 0 && key.peek() < 0 && !this.hover.peek()) {
      return false;
    }
    this.hover.value = null;
    this.tip.value = null;
    this.session.write({ pins: [], query: -1, key: -1 });
    return true;
  }

  goLayer(index: number): void {
    const layer = this.data.peek()?.first.layers[index];
    if (layer !== undefined) this.session.write({ layer }, "soon");
  }

  /** Select a pair, or one end of it. */
  look(spot: Partial<Spot>, when: "now" | "soon" = "soon"): void {
    this.session.write(spot, when);
  }

  togglePin(position: number, side: Side): void {
    const pins = this.session.traits.pins.peek();
    const without = pins.filter(
      (pin) => pin.position !== position || (pin.side ?? "query") !== side,
    );
    const added = without.length === pins.length;
    this.session.write({ pins: added ? [...pins, { position, side }] : without });
    this.announced.value = `${added ? "Pinned" : "Unpinned"} ${side} ${position}.`;
  }

  /** A press on a head: shown large, or on and off while several are taken together. */
  press(head: number, add: boolean): void {
    const { reduce } = this.session.traits;
    if (reduce.peek() !== "one") this.#toggle(head);
    else if (add && head !== this.head.peek()) {
      this.session.write({ reduce: "mean", shown: [this.head.peek(), head].sort((a, b) => a - b) });
      this.announced.value = `Mean of heads ${this.on.peek().join(" and ")}.`;
    } else this.session.write({ head });
  }

  #toggle(head: number): void {
    const on = this.on.peek();
    const off = on.includes(head);
    const shown = off ? on.filter((one) => one !== head) : [...on, head].sort((a, b) => a - b);
    if (shown.length === 0) {
      this.announced.value = "One head must stay on.";
      return;
    }
    this.session.write({ shown: shown.length === this.#heads() ? [] : shown, head });
    this.announced.value = `Head ${head} ${off ? "off" : "on"}; ${shown.length} on.`;
  }

  /** Only this head; once more, all of them again. */
  solo(head: number): void {
    const { reduce } = this.session.traits;
    const on = this.on.peek();
    const alone = reduce.peek() !== "one" && on.length === 1 && on[0] === head;
    this.session.write({ shown: alone ? [] : [head], head });
    this.announced.value = alone ? "All heads on." : `Only head ${head}.`;
  }

  /** Weigh otherwise; what this run has not computed is a new question to the kernel. */
  weigh(weighting: Weighting): void {
    if (this.meta.peek()?.weightings.includes(weighting)) this.session.write({ weighting });
    else this.session.put({ weighting });
  }
}

function set(position: number): ReadonlySet<number> {
  return new Set(position < 0 ? [] : [position]);
}
