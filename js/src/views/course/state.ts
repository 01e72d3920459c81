import { computed, type ReadonlySignal, signal } from "@preact/signals";
import { type Palette, paletteOf } from "../../theme/palette";
import type { Answer, CourseTraits, Value } from "../../wire/course";
import type { Traits } from "../../wire/traits";
import { keep } from "./notebook";
import { whole } from "./verdict";

/** Shows the view that is revealed inside an element; returns what takes it away again. */
export type Reveal = (figure: CourseTraits["figure"], el: HTMLElement) => Promise<() => void>;

/** One question in one element. */
export class CourseState {
  readonly palette: ReadonlySignal<Palette>;
  readonly hinted = signal(false);
  /** Whether the answer can still be changed. */
  readonly open: ReadonlySignal<boolean>;

  constructor(
    readonly own: Traits<CourseTraits>,
    dark: ReadonlySignal<boolean>,
    readonly reveal: Reveal,
  ) {
    this.palette = computed(() => {
      const choice = this.traits.theme.value;
      return paletteOf(choice === "auto" ? dark.value : choice === "dark");
    });
    this.open = computed(() => !this.traits.answer.value.given);
  }

  get traits() {
    return this.own.signals;
  }

  /** Note what is put in; it is no answer yet. */
  draft(el: Element | null, value: Value | null): void {
    this.#write(el, { ...this.traits.answer.peek(), value, given: false }, "soon");
  }

  /** Give the answer. */
  give(el: Element | null): void {
    const answer = this.traits.answer.peek();
    if (answer.given || !whole(this.traits.question.peek(), answer.value)) return;
    this.#write(el, { ...answer, given: true, tries: answer.tries + 1 }, "now");
  }

  /** Take the answer back, where the question allows that. */
  again(el: Element | null): void {
    this.#write(el, { ...this.traits.answer.peek(), given: false }, "now");
  }

  /** Take over what the notebook keeps, where nothing was put in here. */
  adopt(kept: Answer | null): void {
    const { question, answer } = this.traits;
    if (kept === null || answer.peek().value !== null) return;
    if (kept.given && !whole(question.peek(), kept.value)) return;
    this.own.write({ answer: kept });
  }

  #write(el: Element | null, answer: Answer, when: "now" | "soon"): void {
    this.own.write({ answer }, when);
    if (el) keep(el, this.traits.question.peek().id, answer);
  }
}
