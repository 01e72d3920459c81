import type { PairNames } from "./matrix";
import { Painter, type Surface } from "./painter";
import type { Square } from "./square";
import { drawFitted } from "./text";
import type { Cell, Range } from "./windowing";

/** Tokens on both ends of lines. */
export interface Ends {
  queries: ReadonlySet<number>;
  keys: ReadonlySet<number>;
}

/** Queries stand in the first column (point 0), keys in the second (point 1). */
export interface LinksScene extends Surface {
  /** Null while it has not come. */
  square: Square | null;
  /** The number that is drawn in full. */
  most: number;
  names: PairNames;
  /** The tokens whose lines are drawn alone; null for all. */
  isolated: Ends | null;
  pinned: Ends;
  selected: Cell | null;
  hover: Cell | null;
  focused: boolean;
}

/** Fainter lines than this share of the strongest are not drawn while all are. */
export const FAINTEST = 0.04;
/** Of a token that is looked at alone. */
const FAINTEST_ALONE = 0.004;
/** Lines of nearly one strength are drawn in one go. */
const LEVELS = 16;
const PAD = 7;
/** The part of the width that tokens may take on each side. */
const TEXT = 0.33;

/** Two columns of tokens with a line for each pair, as strong as its weight. */
export class LinksPainter extends Painter {
  draw(scene: LinksScene): void {
    const { rows } = this.begin(scene);
    if (scene.square) {
      // What is looked at alone is drawn by its own strongest line.
      const most = scene.isolated ? mostOf(scene.square, scene.isolated) : scene.most;
      this.#drawGrounds({ ...scene, most }, scene.square, rows);
      this.#drawLines({ ...scene, most }, scene.square, rows);
    } else this.#drawWaiting(scene);
    for (let row = rows.from; row < rows.to; row++) {
      this.#drawToken(scene, row, 0);
      this.#drawToken(scene, row, 1);
    }
  }

  #ends({ width }: LinksScene): [left: number, right: number] {
    return [Math.round(width * TEXT), Math.round(width * (1 - TEXT))];
  }

  #drawWaiting(scene: LinksScene): void {
    const [left, right] = this.#ends(scene);
    this.ctx.fillStyle = this.pending(scene);
    this.ctx.fillRect(left, 0, right - left, scene.height);
  }

  #drawLines(scene: LinksScene, square: Square, rows: Range): void {
    const { ctx } = this;
    const { palette, shape, scrollTop } = scene;
    const [left, right] = this.#ends(scene);
    const middle = (position: number) => (position + 0.5) * shape.rowHeight - scrollTop;
    const levels = collect(scene, square, rows);
    ctx.lineCap = "round";
    levels.forEach((pairs, level) => {
      if (pairs.length === 0) return;
      const strength = ((level % LEVELS) + 1) / LEVELS;
      const negative = level >= LEVELS;
      ctx.strokeStyle = negative
        ? palette.negative
        : square.signed
          ? palette.positive
          : palette.accent;
      ctx.globalAlpha = 0.08 + 0.92 * strength;
      ctx.lineWidth = 0.8 + 1.8 * strength;
      ctx.beginPath();
      for (let i = 0; i < pairs.length; i += 2) {
        ctx.moveTo(left, middle(pairs[i] as number));
        ctx.lineTo(right, middle(pairs[i + 1] as number));
      }
      ctx.stroke();
    });
    ctx.globalAlpha = 1;
  }

  /** The ground of each token, as strong as its line to the token that is looked at. */
  #drawGrounds(scene: LinksScene, square: Square, rows: Range): void {
    const { isolated, palette, shape, width } = scene;
    if (!isolated || scene.most <= 0) return;
    const { ctx } = this;
    const [left, right] = this.#ends(scene);
    for (let row = rows.from; row < rows.to; row++) {
      const y = row * shape.rowHeight - scene.scrollTop;
      const asKey = strongest(isolated.queries, (query) => at(square, query, row));
      const asQuery = strongest(isolated.keys, (key) => at(square, row, key));
      for (const [value, x, wide] of [
        [asKey, right, width - right],
        [asQuery, 0, left],
      ] as const) {
        ctx.fillStyle = value < 0 ? palette.negative : palette.accent;
        ctx.globalAlpha = Math.min(1, Math.abs(value) / scene.most) * 0.35;
        ctx.fillRect(x, y + 1, wide, shape.rowHeight - 2);
      }
    }
    ctx.globalAlpha = 1;
  }

  #drawToken(scene: LinksScene, row: number, side: 0 | 1): void {
    const { ctx } = this;
    const { shape, palette, names, square } = scene;
    const count = side === 0 ? square?.queries : square?.keys;
    if (count !== undefined && row >= count) return;
    const [left, right] = this.#ends(scene);
    const y = (row + 0.5) * shape.rowHeight - scene.scrollTop;
    const from = side === 0 ? 0 : right;
    const wide = side === 0 ? left : scene.width - right;
    const pinned = (side === 0 ? scene.pinned.queries : scene.pinned.keys).has(row);
    if (pinned) {
      ctx.fillStyle = palette.accent;
      ctx.fillRect(
        side === 0 ? left - 3 : right,
        y - shape.rowHeight / 2 + 1,
        3,
        shape.rowHeight - 2,
      );
    }
    const small = `10px ${scene.font}`;
    const number = String(row);
    const numberWide = this.fitter(small).width(number);
    ctx.font = small;
    ctx.fillStyle = palette.faint;
    ctx.fillText(number, side === 0 ? PAD : scene.width - PAD - numberWide, y);
    const font = `${pinned ? 600 : 400} 12px ${scene.font}`;
    const text = side === 0 ? names.query(row) : names.key(row);
    const fitted = this.fitter(font).fit(text, wide - numberWide - 3 * PAD);
    ctx.font = font;
    ctx.fillStyle = palette.fg;
    const full = fitted ? fitted.leadWidth + fitted.bodyWidth : 0;
    if (fitted) drawFitted(ctx, fitted, side === 0 ? left - PAD - full : right + PAD, y);
    this.#drawFrame(scene, row, side, [from, wide]);
  }

  #drawFrame(scene: LinksScene, row: number, side: 0 | 1, [x, wide]: [number, number]): void {
    const { ctx } = this;
    const { palette, shape, hover, selected } = scene;
    const is = (cell: Cell | null) => cell?.point === side && cell.position === row;
    if (!is(hover) && !is(selected)) return;
    ctx.strokeStyle = is(selected) ? palette.accent : palette.fg;
    ctx.lineWidth = is(selected) && scene.focused ? 2 : 1;
    const y = row * shape.rowHeight - scene.scrollTop;
    ctx.strokeRect(x + 1, y + 1, wide - 2, shape.rowHeight - 2);
  }
}

function at(square: Square, query: number, key: number): number {
  if (query >= square.queries || key >= square.keys) return Number.NaN;
  return square.values[query * square.keys + key] ?? Number.NaN;
}

/** The number farthest from 0 of those at some places; 0 where there is none. */
function strongest(places: ReadonlySet<number>, value: (place: number) => number): number {
  let most = 0;
  for (const place of places) {
    const one = value(place);
    if (Math.abs(one) > Math.abs(most)) most = one;
  }
  return most;
}

/** The strongest of the lines from some queries and to some keys. */
export function mostOf(square: Square, { queries, keys }: Ends): number {
  let most = 0;
  const take = (query: number, key: number) => {
    const size = Math.abs(at(square, query, key));
    if (size > most) most = size;
  };
  for (const query of queries) for (let key = 0; key < square.keys; key++) take(query, key);
  for (const key of keys) for (let query = 0; query < square.queries; query++) take(query, key);
  return most;
}

/**
 * The pairs whose lines are drawn, by strength: query and key in turn. A line is drawn where one of
 * its ends can be seen; numbers below 0 come in levels of their own, after the others.
 */
export function collect(
  { isolated, most }: Pick<LinksScene, "isolated" | "most">,
  square: Square,
  rows: Range,
): number[][] {
  const levels: number[][] = Array.from({ length: 2 * LEVELS }, () => []);
  if (most <= 0) return levels;
  const least = (isolated ? FAINTEST_ALONE : FAINTEST) * most;
  const put = (query: number, key: number) => {
    const value = at(square, query, key);
    const size = Math.abs(value);
    // NaN is not at least anything.
    if (!(size >= least)) return;
    const level = Math.min(LEVELS, Math.ceil((size / most) * LEVELS)) - 1;
    levels[value < 0 ? LEVELS + level : level]?.push(query, key);
  };
  for (let query = 0; query < square.queries; query++) {
    const seen = query >= rows.from && query < rows.to;
    const [from, to] = seen ? [0, square.keys] : [rows.from, Math.min(rows.to, square.keys)];
    if (!isolated || isolated.queries.has(query)) {
      for (let key = from; key < to; key++) put(query, key);
      continue;
    }
    for (const key of isolated.keys) if (seen || (key >= from && key < to)) put(query, key);
  }
  return levels;
}
