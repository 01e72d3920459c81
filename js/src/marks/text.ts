/** Token text made visible and measurable. Display only: nothing is ever looked up by it. */

const FSI = "\u2068";
const PDI = "\u2069";
const RTL = /[\u0590-\u08ff\ufb1d-\ufdff\ufe70-\ufeff]/;
// Bidirectional controls inside a token could reorder what stands beside it.
const CONTROLS = /[\p{Cc}\u200b-\u200f\u202a-\u202e\u2060-\u2069\ufeff]/gu;

const NAMED: Record<string, string> = { "\n": "↵", "\t": "⇥", "\r": "␍" };

/** Controls and line ends as visible marks. */
export function visible(text: string): string {
  // A joiner inside an emoji or a Persian word belongs to the character; alone it is invisible.
  return text.replace(CONTROLS, (c, offset: number) => {
    if (NAMED[c]) return NAMED[c] as string;
    if ((c === "\u200d" || c === "\u200c") && offset > 0 && offset < text.length - 1) return c;
    return `\\u{${(c.codePointAt(0) ?? 0).toString(16)}}`;
  });
}

export function isRtl(text: string): boolean {
  return RTL.test(text);
}

export interface Split {
  /** Leading spaces as ␣, drawn fainter than the rest. */
  lead: string;
  body: string;
  tail: string;
}

/** Leading and trailing spaces apart from the rest, so that they can be drawn as faint marks. */
export function splitSpaces(text: string): Split {
  const lead = /^[ \u00a0␣]+/.exec(text)?.[0] ?? "";
  const rest = text.slice(lead.length);
  const tail = rest ? (/[ \u00a0␣]+$/.exec(rest)?.[0] ?? "") : "";
  return {
    lead: "␣".repeat(lead.length),
    body: visible(rest.slice(0, rest.length - tail.length)),
    tail: "␣".repeat(tail.length),
  };
}

/** One string for titles, labels and copies. */
export function plain(text: string): string {
  const { lead, body, tail } = splitSpaces(text);
  return lead + body + tail || "(empty)";
}

/** What a token of a text is called; one that only continues a character has no text of its own. */
export function tokenName(token: { text: string; cont: boolean } | undefined): string {
  if (!token) return "";
  return token.cont ? "⋯ (goes on)" : plain(token.text);
}

/** Protect what follows from the direction of this text. */
export function isolate(text: string): string {
  return `${FSI}${text}${PDI}`;
}

export function graphemes(text: string): string[] {
  if (typeof Intl !== "undefined" && "Segmenter" in Intl) {
    const segmenter = new Intl.Segmenter(undefined, { granularity: "grapheme" });
    return Array.from(segmenter.segment(text), (s) => s.segment);
  }
  return Array.from(text);
}

export interface Fitted {
  split: Split;
  leadWidth: number;
  bodyWidth: number;
  rtl: boolean;
  /** True when characters were left out. */
  cut: boolean;
}

type Measure = (text: string) => number;

/** Measures each text once and remembers how it fits a width. */
export class TextFitter {
  readonly #widths = new Map<string, number>();
  readonly #fitted = new Map<number, Map<string, Fitted | null>>();

  constructor(private readonly measure: Measure) {}

  width(text: string): number {
    let width = this.#widths.get(text);
    if (width === undefined) {
      width = text ? this.measure(text) : 0;
      this.#widths.set(text, width);
    }
    return width;
  }

  /** Shorten to a width with "…"; null when not even one character fits. */
  fit(text: string, width: number): Fitted | null {
    let texts = this.#fitted.get(width);
    if (!texts) {
      // Dragging a column edge passes through many widths; only the last few are worth keeping.
      if (this.#fitted.size >= 8) this.#fitted.clear();
      texts = new Map();
      this.#fitted.set(width, texts);
    }
    const known = texts.get(text);
    if (known !== undefined) return known;
    const fitted = this.#fit(text, width);
    texts.set(text, fitted);
    return fitted;
  }

  #fit(text: string, width: number): Fitted | null {
    const split = splitSpaces(text);
    const rtl = isRtl(text);
    const leadWidth = this.width(split.lead);
    const bodyWidth = this.width(split.body + split.tail);
    if (leadWidth + bodyWidth <= width) return { split, leadWidth, bodyWidth, rtl, cut: false };
    const whole = graphemes(split.body + split.tail);
    // With little room the mark of the space goes first: letters tell more.
    const lead = leadWidth + this.width("m…") <= width ? split.lead : "";
    const room = width - this.width(lead);
    let low = 0;
    let high = whole.length;
    while (low < high) {
      const middle = (low + high + 1) >> 1;
      if (this.width(`${whole.slice(0, middle).join("")}…`) <= room) low = middle;
      else high = middle - 1;
    }
    if (low === 0) return null;
    const body = low < whole.length ? `${whole.slice(0, low).join("")}…` : whole.join("");
    return {
      split: { lead, body, tail: "" },
      leadWidth: this.width(lead),
      bodyWidth: this.width(body),
      rtl,
      cut: true,
    };
  }
}

/** Draw a fitted text from its left edge; spaces are marked at the side where they are read. */
export function drawFitted(
  ctx: CanvasRenderingContext2D,
  fitted: Fitted,
  x: number,
  y: number,
  faint = 0.45,
): void {
  const { split, leadWidth, bodyWidth, rtl } = fitted;
  const text = split.body + split.tail;
  if (text) ctx.fillText(isolate(text), rtl ? x : x + leadWidth, y);
  if (!split.lead) return;
  const alpha = ctx.globalAlpha;
  // Beside letters the mark stands back; alone it is all there is to read.
  ctx.globalAlpha = text ? alpha * faint : alpha;
  ctx.fillText(split.lead, rtl ? x + bodyWidth : x, y);
  ctx.globalAlpha = alpha;
}
