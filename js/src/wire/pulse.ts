import { type Signal, signal } from "@preact/signals";

/** "silent": no answer for a while, busy or gone; "gone": the kernel that knew this view is. */
export type Lost = "" | "silent" | "gone";

/** How long an answer is waited for before it is asked whether anybody is there, milliseconds. */
const PATIENCE = 5000;
/** How long a kernel that is there takes at most to say so, when no cell holds it up. */
const ECHO = 3000;

/**
 * Whether the kernel still answers.
 *
 * Nothing is sent while all goes well: a question is followed by a ping when it stays without any
 * answer, and so is the host's word that the connection has changed (a restart, or a network that
 * was away). A kernel that is held up by a cell answers late, and takes the message back.
 */
export class Pulse {
  readonly lost: Signal<Lost> = signal("");
  #timer: ReturnType<typeof setTimeout> | undefined;

  constructor(
    /** Returns whether the message could be sent at all. */
    private readonly ping: () => boolean,
  ) {}

  /** Something has come from the kernel. */
  heard(): void {
    this.#stop();
    this.lost.value = "";
  }

  /** Something was sent that is answered at once, if anybody is there. */
  expect(): void {
    if (this.#timer !== undefined || this.lost.peek()) return;
    this.#timer = setTimeout(() => this.#ask("silent"), PATIENCE);
  }

  /** The host says that the connection has changed. */
  doubt(): void {
    this.#stop();
    this.#ask("gone");
  }

  /** Nothing can be sent any more. */
  gone(): void {
    this.#stop();
    this.lost.value = "gone";
  }

  dispose(): void {
    this.#stop();
  }

  #ask(otherwise: Lost): void {
    if (!this.ping()) {
      this.gone();
      return;
    }
    this.#timer = setTimeout(() => {
      this.#timer = undefined;
      this.lost.value = otherwise;
    }, ECHO);
  }

  #stop(): void {
    clearTimeout(this.#timer);
    this.#timer = undefined;
  }
}
