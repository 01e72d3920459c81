import { computed, type ReadonlySignal } from "@preact/signals";
import type { AnswerMeta, AnswerTraits, CellPanel, LabelledCell } from "../../wire/answer";
import type { FeatureMeta, FeatureTraits } from "../../wire/feature";
import type { Session } from "../../wire/session";
import { AnswerState } from "../answer/state";
import type { Division } from "../arrays/state";
import { FeatureData, type Steered } from "./data";

/** What comes of a strength: known, asked for, failed, or nothing that could be asked. */
export type Text =
  | { state: "known"; steered: Steered; code: string }
  | { state: "asked" }
  | { state: "failed"; problem: string }
  | { state: "unknown" };

/** The state of the page of a feature. */
export class FeatureState extends AnswerState {
  readonly page: ReadonlySignal<FeatureData | null>;
  /** What is written at the strength that is chosen. */
  readonly text: ReadonlySignal<Text>;
  readonly own: Session<FeatureTraits, FeatureMeta>;

  constructor(session: Session<FeatureTraits, FeatureMeta>, dark: ReadonlySignal<boolean>) {
    // What a page has beyond an answer is read through `own`.
    super(session as unknown as Session<AnswerTraits, AnswerMeta>, dark, DRAWN_OTHERWISE);
    this.own = session;
    this.page = computed(() => {
      session.version.value;
      return session.store.value ? new FeatureData(session.store.value) : null;
    });
    this.text = computed(() => this.#textOf(session.traits.strength.value));
  }

  /** The feature that is asked for. */
  number(): number {
    return Number(
      this.own.traits.options.value.number ?? this.page.value?.meta.feature.number ?? 0,
    );
  }

  protected override asking(name: string): unknown {
    return name === "number" ? this.number() : super.asking(name);
  }

  /** Ask for the page of another feature. */
  choose(number: number): void {
    const count = this.page.peek()?.one("features") ?? Number.NaN;
    if (!Number.isInteger(number) || number < 0 || number >= count) return;
    if (number === this.number()) return;
    this.close();
    this.own.put({ options: { ...this.own.traits.options.peek(), number } });
    this.announced.value = `Feature ${number}.`;
  }

  /** A row of a list of features leads to its page. */
  override openLabelled(cell: LabelledCell): void {
    if (cell.array === "feature") this.choose(Number(cell.at.feature));
    else super.openLabelled(cell);
  }

  /** Open the whole text of an example. */
  openExample(example: number): void {
    const array = this.meta.peek()?.arrays.find(({ name }) => name === "activation");
    if (array) this.open(array, [example]);
  }

  /** What someone wrote of the feature that is shown. */
  meaning(): string {
    return this.own.traits.meanings.value[String(this.number())] ?? "";
  }

  writeMeaning(words: string): void {
    const { [String(this.number())]: _, ...others } = this.own.traits.meanings.peek();
    const meanings = words.trim() ? { ...others, [String(this.number())]: words } : others;
    this.own.write({ meanings }, "soon");
  }

  /** All that was written of features, as a file that `FeatureView(meanings=...)` takes. */
  meaningsFile(): string {
    const { meta } = this;
    const known = meta.peek() as FeatureMeta | null;
    const { site = "", layers = [] } = known?.feature ?? {};
    const meanings = this.own.traits.meanings.peek();
    return `${JSON.stringify({ model: known?.model ?? "", site, layers, meanings }, null, 2)}\n`;
  }

  /** Have a text written at the strength that is chosen, where none is known. */
  steer(): void {
    const strength = this.own.traits.strength.peek();
    const page = this.page.peek();
    if (!page?.steers || !this.own.live.peek() || page.steered(strength)) return;
    void this.own.ask(keyOf(strength), "steer", { strength });
  }

  #textOf(strength: number): Text {
    const page = this.page.value;
    const known = page?.steered(strength);
    if (known) return { state: "known", steered: known, code: "" };
    const answer = this.own.answers.value.get(keyOf(strength));
    if (!answer) return { state: "unknown" };
    if ("problem" in answer) return { state: "failed", problem: answer.problem };
    if ("asked" in answer) return { state: "asked" };
    const { texts, code } = answer.reply.result as CellPanel;
    const [text = "", other = ""] = texts.map(({ tokens }) =>
      tokens.map((token) => token.text).join(""),
    );
    const none = Number.NaN;
    return { state: "known", steered: { text, other, kl: none, otherKl: none }, code };
  }
}

function keyOf(strength: number): string {
  return `steer ${strength}`;
}

/** The arrays of a page are drawn as its parts. */
const DRAWN_OTHERWISE: Division<AnswerMeta> = {
  grid: () => false,
  curve: () => false,
  table: () => "",
};
