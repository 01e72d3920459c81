import { computed, type Signal, signal } from "@preact/signals";
import { plain } from "../../marks/text";
import type { ColorScale } from "../../theme/scale";
import { divergingScale } from "../../theme/scale";
import { FrozenModel } from "../../wire/frozen";
import { LENS, type LensMeta } from "../../wire/lens";
import { unpack } from "../../wire/packed";
import { Session } from "../../wire/session";
import { RunStore } from "../../wire/store";
import type { BaseState } from "../common/state";
import { LensData } from "../lens/data";
import { ViewState } from "../lens/state";

export type Which = "before" | "after" | "difference";

/** How the probability of a token changes in each cell: of each cell's top token, or of one token. */
export class DifferenceData extends LensData {
  constructor(
    after: RunStore<LensMeta>,
    readonly before: LensData,
    /** Index of a tracked token; -1 is each cell's top token after the patches. */
    readonly of: number,
  ) {
    super(after);
  }

  override value(_mode: unknown, _tracked: number, point: number, position: number): number {
    if (this.of >= 0) {
      const was = this.before.tracked(point, position, this.of);
      return this.tracked(point, position, this.of) - was;
    }
    const id = this.topId(point, position);
    return this.probability(point, position) - this.probabilityBefore(point, position, id).value;
  }

  /** Of a token that is not among the top k, all that is known is that it is below the last. */
  probabilityBefore(point: number, position: number, id: number) {
    const tops = this.before.top(point, position);
    const known = tops.find((top) => top.id === id);
    if (known) return { value: known.probability, atMost: false };
    return { value: tops.at(-1)?.probability ?? Number.NaN, atMost: true };
  }
}

/** The lens of the run before and after the patches: a lens view's state with no kernel behind it. */
export class LensPair extends ViewState {
  readonly which: Signal<Which> = signal("difference");
  /** What the difference is of; see DifferenceData. */
  readonly of: Signal<number>;
  readonly #before: LensData;

  constructor(parent: BaseState, before: RunStore<LensMeta>, after: RunStore<LensMeta>) {
    const model = new FrozenModel({ view: "lens", cell_width: 72 });
    super(
      new Session(model, LENS),
      computed(() => parent.palette.value.name === "dark"),
    );
    this.#before = new LensData(before);
    this.of = signal(after.meta.tracked.length > 0 ? 0 : -1);
    this.session.store.value = after;
  }

  /** Read the two pictures that the kernel sent. */
  static async read(parent: BaseState, buffers: readonly DataView[]): Promise<LensPair> {
    const [before, after] = await Promise.all(
      buffers.slice(0, 2).map(async (bytes) => RunStore.of(await unpack(bytes), LENS)),
    );
    if (!before || !after) throw new Error("The kernel sent no picture of the lens.");
    return new LensPair(parent, before, after);
  }

  get beforeData(): LensData {
    return this.#before;
  }

  get afterData(): LensData {
    return new LensData(this.session.store.peek() as RunStore<LensMeta>);
  }

  protected override makeData(store: RunStore<LensMeta>): LensData {
    const which = this.which.value;
    if (which === "before") return this.#before;
    if (which === "after") return super.makeData(store);
    return new DifferenceData(store, this.#before, this.of.value);
  }

  protected override makeScale(): ColorScale {
    if (this.which.value !== "difference") return super.makeScale();
    const token = this.session.store.value?.meta.tracked[this.of.value];
    const label = `Change of P(${token ? plain(token.text) : "top token after"})`;
    return divergingScale(this.palette.value, label, "after − before");
  }

  /** Nothing can be pinned here: there is no chart to follow a token in. */
  override togglePin(): void {}
}
