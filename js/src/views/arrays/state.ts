import { computed, type ReadonlySignal, type Signal, signal } from "@preact/signals";
import type { Cell } from "../../marks/windowing";
import { type ColorScale, rangeScale } from "../../theme/scale";
import type { ArrayInfo, ArraysMeta, ArraysTraits } from "../../wire/arrays";
import type { Session } from "../../wire/session";
import type { Anchor } from "../common/canvasgrid";
import { BaseState } from "../common/state";
import { ArraysData, unitName } from "./data";
import { GridData } from "./grid";
import { type Panel, panelsOf } from "./grouping";

/** How a view divides its arrays between grids, curves and tables; the rest is not drawn. */
export interface Division<M extends ArraysMeta = ArraysMeta> {
  grid(array: ArrayInfo, meta: M): boolean;
  curve(array: ArrayInfo, meta: M): boolean;
  /** Arrays of one answer are columns of one table; "" for none. */
  table(array: ArrayInfo, meta: M): string;
}

/** Entries of axes, by the names of these. */
export type Entries = Readonly<Record<string, number>>;

/** The state of a view of arrays: what is selected and pointed at, along which axis. */
export class ArraysState<
  T extends ArraysTraits = ArraysTraits,
  M extends ArraysMeta = ArraysMeta,
> extends BaseState<T, M> {
  readonly data: ReadonlySignal<ArraysData<M> | null>;
  readonly panels: ReadonlySignal<Panel[]>;
  /** The layers of the axis that all curves over layers share. */
  readonly places: ReadonlySignal<number[]>;
  /** What is drawn as cells. */
  readonly grids: ReadonlySignal<ArrayInfo[]>;
  /** The one that is shown. */
  readonly grid: ReadonlySignal<GridData | null>;
  /** The layer under the pointer, in whatever part of the view. */
  readonly over: Signal<number | null> = signal(null);
  /** The layer that numbers are read out for: under the pointer, else the selected one. */
  readonly read: ReadonlySignal<number | null>;
  /** The entry under the pointer of an axis of another kind. */
  readonly overEntry: Signal<{ dim: string; index: number } | null> = signal(null);
  /** The cell under the pointer in the grid. */
  readonly hover: Signal<Anchor | null> = signal(null);
  /** What is selected along axes that no other view has. */
  readonly entries: Signal<Entries> = signal({});
  /** Panels whose curves are drawn in a chart each. */
  readonly apart: Signal<readonly string[]> = signal([]);
  /** Which entry that is. */
  readonly entry: ReadonlySignal<number>;
  protected readonly ownEntry = signal(0);

  constructor(
    session: Session<T, M>,
    dark: ReadonlySignal<boolean>,
    protected readonly division: Division<M>,
  ) {
    super(session, dark);
    const { traits } = session;
    this.data = computed(() => (session.store.value ? new ArraysData(session.store.value) : null));
    const drawn = computed(() => {
      const meta = this.data.value?.meta;
      return meta ? meta.arrays.filter((array) => division.curve(array, meta)) : [];
    });
    this.panels = computed(() => {
      const meta = this.data.value?.meta;
      return meta ? panelsOf(meta, drawn.value, this.apart.value) : [];
    });
    this.places = computed(() => this.data.value?.places(drawn.value) ?? []);
    this.grids = computed(() => {
      const meta = this.data.value?.meta;
      return meta ? meta.arrays.filter((array) => division.grid(array, meta)) : [];
    });
    this.entry = computed(() => this.chosenEntry());
    this.grid = computed(() => {
      const { value: data } = this.data;
      const { value: grids } = this.grids;
      const array = grids.find(({ name }) => name === traits.focus.value) ?? grids[0];
      if (!data || !array) return null;
      session.version.value;
      const chosen = this.third();
      const third = array.dims.includes(chosen) ? chosen : array.third;
      const cut = { third, means: this.means() };
      const { rest } = new GridData(data, array, cut);
      const count = rest.reduce((product, dim) => product * data.size(dim), 1);
      const entry = this.entry.value < count ? this.entry.value : 0;
      return new GridData(data, array, { ...cut, entry });
    });
    this.read = computed(() => this.over.value ?? this.selected());
  }

  protected chosenEntry(): number {
    return this.ownEntry.value;
  }

  chooseEntry(entry: number): void {
    this.ownEntry.value = entry;
  }

  /** The axis of which the grid shows one entry, where it has three; "" for the array's own. */
  third(): string {
    return "";
  }

  /** Whether the means of rows and columns are drawn. */
  means(): boolean {
    return false;
  }

  /** Whether a second model's curves are laid over the first one's. */
  overlaid(): boolean {
    return true;
  }

  /** The colours of a grid. */
  scaleOf({ data, array }: GridData): ColorScale {
    const { low, high } = data.extent(array.name) ?? { low: 0, high: 1 };
    const label = array.name.replaceAll("_", " ");
    return rangeScale(this.palette.value, low, high, label, unitName(array.units));
  }

  /** The table that an array is a column of; "" for none. */
  tableOf(array: ArrayInfo): string {
    const meta = this.data.value?.meta;
    return meta ? this.division.table(array, meta) : "";
  }

  /** Whether it can be shown what a cell is made of. */
  get opens(): boolean {
    return false;
  }

  /** Show what a cell is made of, where the view can. */
  open(_array: ArrayInfo, _index: readonly number[]): void {}

  /** The trait that holds what is selected along an axis; "" where no other view has the axis. */
  #shared(dim: string): "layer" | "head" | "position" | "" {
    const { value: data } = this.data;
    const role = data?.role(dim) ?? "";
    const grid = this.grid.value;
    // Of two axes of layers only one follows: a cell has two of them.
    const second = grid?.across === dim && data?.role(grid.down) === role;
    return second ? "" : (role as "layer" | "head" | "position" | "");
  }

  /** The entry of an axis that is selected; -1 for none. */
  at(dim: string): number {
    const { value: data } = this.data;
    if (!data) return -1;
    const own = this.entries.value[dim] ?? -1;
    const trait = this.#shared(dim);
    if (!trait) return own < data.size(dim) ? own : -1;
    const number = this.session.traits[trait].value;
    if (number < 0) return -1;
    // Several entries may be of one layer.
    return data.number(dim, own) === number ? own : data.index(dim, number);
  }

  /** The cell of the grid that is selected; a matrix shows a layer with itself until told else. */
  cell(): Cell | null {
    const grid = this.grid.value;
    const point = grid ? this.at(grid.down) : -1;
    if (!grid || point < 0) return null;
    const position = this.at(grid.across);
    return { point, position: position < 0 && grid.square ? point : position };
  }

  /** Select entries of axes; layers, heads and positions are shared with linked views. */
  go(places: Entries, when: "now" | "soon" = "now"): void {
    const { value: data } = this.data;
    if (!data) return;
    const shared: { layer?: number; head?: number; position?: number } = {};
    const own: Record<string, number> = {};
    for (const [dim, index] of Object.entries(places)) {
      if (index < 0 || index >= data.size(dim)) continue;
      own[dim] = index;
      const trait = this.#shared(dim);
      const number = data.number(dim, index);
      // The embedding is no layer that other views could follow.
      if (trait && number >= 0) shared[trait] = number;
    }
    if (Object.keys(own).length > 0) this.entries.value = { ...this.entries.value, ...own };
    if (Object.keys(shared).length > 0) this.session.write(shared as Partial<T>, when);
  }

  /** The selected layer, if this model has it; linked views also count what is not a layer. */
  selected(): number | null {
    const layer = this.session.traits.layer.value;
    const last = this.places.value.at(-1) || (this.meta.value?.n_layers ?? 0) - 1;
    return layer >= 0 && layer <= last ? layer : null;
  }

  /** Go to a layer; the embedding is none. */
  select(layer: number, when: "now" | "soon" = "soon"): void {
    if (layer >= 0) this.session.write({ layer } as Partial<T>, when);
  }

  /** Move the selection by some layers; from nowhere it begins at the first. */
  step(by: number): void {
    const last = this.places.peek().at(-1) ?? 0;
    const at = this.session.traits.layer.peek();
    if (at < 0 && Number.isFinite(by)) this.select(by < 0 ? last : 0);
    else this.select(Math.min(last, Math.max(0, at + by)));
  }

  shown(name: string): boolean {
    return !this.session.traits.hidden.value.includes(name);
  }

  toggleLine(name: string): void {
    const hidden = this.session.traits.hidden.peek();
    const without = hidden.filter((other) => other !== name);
    this.#hide(without.length === hidden.length ? [...hidden, name] : without);
  }

  /** Draw one curve of a panel alone; again: all of them. */
  soloLine(name: string, all: readonly string[]): void {
    const hidden = this.session.traits.hidden.peek();
    const others = all.filter((other) => other !== name);
    const alone = !hidden.includes(name) && others.every((other) => hidden.includes(other));
    const rest = hidden.filter((other) => !all.includes(other));
    this.#hide(alone ? rest : [...rest, ...others]);
  }

  #hide(hidden: string[]): void {
    this.session.write({ hidden } as Partial<T>);
  }

  /** Show one panel or grid large, or no longer. */
  toggleFocus(name: string): void {
    const { focus } = this.session.traits;
    this.session.write({ focus: focus.peek() === name ? "" : name } as Partial<T>);
  }

  /** Draw the curves of a panel in a chart each, or together again. */
  toggleApart(key: string): void {
    const apart = this.apart.peek();
    this.apart.value = apart.includes(key)
      ? apart.filter((other) => other !== key)
      : [...apart, key];
  }
}
