import { computed, type ReadonlySignal, type Signal, signal } from "@preact/signals";
import { type ColorScale, effectScale } from "../../theme/scale";
import type {
  AnswerMeta,
  AnswerTraits,
  ArrayScale,
  CellPanel,
  Dose,
  LabelledCell,
} from "../../wire/answer";
import type { ArrayInfo } from "../../wire/arrays";
import type { Answer, Session } from "../../wire/session";
import { unitName } from "../arrays/data";
import type { GridData } from "../arrays/grid";
import { ArraysState, type Division } from "../arrays/state";
import { divisionOf } from "./division";

export type Opened =
  | { state: "asked" }
  | { state: "shown"; panel: CellPanel }
  | { state: "failed"; problem: string };

/** The state of the view of one analysis. */
export class AnswerState extends ArraysState<AnswerTraits, AnswerMeta> {
  /** The cell whose inside is shown; its key among the session's answers. */
  readonly #open: Signal<string> = signal("");
  /** Where it is shown: at its cell, or under the field that it was found by. */
  readonly near: Signal<"cell" | "field"> = signal("cell");
  /** What is known of it; null while none is open. */
  readonly opened: ReadonlySignal<Opened | null>;
  /** The kernel's answer is waited for, unless another cell is opened first. */
  #asking: AbortController | null = null;

  constructor(
    session: Session<AnswerTraits, AnswerMeta>,
    dark: ReadonlySignal<boolean>,
    division: Division<AnswerMeta> = divisionOf(session.traits.view.peek()),
  ) {
    super(session, dark, division);
    this.opened = computed(() => openedOf(session.answers.value.get(this.#open.value)));
  }

  protected override chosenEntry(): number {
    return this.session.traits.entry.value;
  }

  override chooseEntry(entry: number): void {
    this.session.write({ entry });
  }

  override third(): string {
    return this.session.traits.third.value;
  }

  override means(): boolean {
    return this.session.traits.means.value;
  }

  protected override asking(name: string): unknown {
    const { inputs, options } = this.session.traits;
    const given = { ...options.value, ...inputs.value };
    return name in given ? given[name] : super.asking(name);
  }

  /** The colours of the figure that is exported. */
  override scaleOf({ data, array }: GridData): ColorScale {
    const { centre, limit, unit } = this.#scale(array.name);
    const { low, high } = data.extent(array.name) ?? { low: 0, high: 0 };
    const middle = centre ?? 0;
    const reach = limit ?? (Math.max(middle - low, high - middle) || 1);
    const label = array.name.replaceAll("_", " ");
    const words = unit || unitName(array.units);
    return effectScale(this.palette.value, [low, high], [middle, reach], label, words);
  }

  /** The number from which cells are strong or weak. */
  centreOf({ array }: GridData): number {
    return this.#scale(array.name).centre ?? 0;
  }

  #scale(name: string): ArrayScale {
    return this.meta.value?.scales[name] ?? UNSAID;
  }

  /** Ask again, with other texts or for the same anew. */
  run(inputs: Record<string, string>): void {
    const { session } = this;
    const now = session.traits.inputs.peek();
    if (JSON.stringify(inputs) === JSON.stringify(now)) session.run({});
    else session.put({ inputs });
  }

  override get opens(): boolean {
    return Boolean(this.meta.value?.opens && this.session.live.value);
  }

  override open(array: ArrayInfo, index: readonly number[]): void {
    this.near.value = "cell";
    this.#ask({ array: array.name, index, dims: array.dims });
  }

  /** Open the cell that a row of a table is about. */
  openLabelled(cell: LabelledCell): void {
    this.#ask(cell);
  }

  /** Look for what a token has most. */
  find(token: number): void {
    this.near.value = "field";
    this.#ask({ find: token });
  }

  #ask(params: object): void {
    const { session } = this;
    const method = this.meta.peek()?.opens;
    if (!method || !session.live.peek()) return;
    const key = `${method} ${JSON.stringify(params)}`;
    if (key === this.#open.peek() && this.opened.peek()) return;
    this.close();
    this.#open.value = key;
    this.#asking = new AbortController();
    void session.ask(key, method, params, this.#asking.signal);
  }

  /** Close the panel of a cell, and wait for it no longer. */
  close(): void {
    this.#asking?.abort();
    this.#asking = null;
    this.#open.value = "";
  }

  /** The value of a dose that is chosen. */
  dosed(dose: Dose): number {
    const { value: data } = this.data;
    if (dose.dim && data) return this.#entryOf(dose);
    const now = Number(this.session.traits.options.value[dose.option] ?? dose.now);
    return Math.max(0, dose.values.indexOf(now));
  }

  /** Choose the value of a dose: an entry of an axis, or an option, which asks again. */
  dose(dose: Dose, index: number): void {
    if (!dose.dim) {
      const options = { ...this.session.traits.options.peek(), [dose.option]: dose.values[index] };
      this.session.put({ options });
      return;
    }
    // The grid shows that entry, and its curve stands out.
    this.go({ [dose.dim]: index });
    if (this.grid.peek()?.rest[0] === dose.dim) this.chooseEntry(index);
  }

  #entryOf({ dim }: Dose): number {
    if (this.grid.value?.rest[0] === dim) return this.entry.value;
    return Math.max(0, this.at(dim));
  }
}

const UNSAID: ArrayScale = { kind: "sequential", centre: null, limit: null, unit: "" };

function openedOf(answer: Answer | undefined): Opened | null {
  if (!answer) return null;
  if ("problem" in answer) return { state: "failed", problem: answer.problem };
  if ("asked" in answer) return { state: "asked" };
  return { state: "shown", panel: answer.reply.result as CellPanel };
}
