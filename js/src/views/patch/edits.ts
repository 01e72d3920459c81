import type { Cell } from "../../marks/windowing";
import type { Axis, Edit, Spot } from "../../wire/patch";
import type { PatchData } from "./data";

/** The patch that puts what was at one place into another; places are a layer, and a position or head. */
export function editBetween(site: string, by: Axis, from: Cell, to: Cell): Edit {
  const heads = by === "head";
  const spot = (cell: Cell): Spot => ({
    layer: cell.point,
    position: heads ? null : cell.position,
  });
  return { site, ...spot(to), head: heads ? to.position : null, from: spot(from), on: true };
}

/** Whether two patches are the same, on or off. */
export function sameEdit(a: Edit, b: Edit): boolean {
  return keyOf([{ ...a, on: true }]) === keyOf([{ ...b, on: true }]);
}

/** A name for what some patches do together; their order counts. */
export function keyOf(edits: readonly Edit[]): string {
  return JSON.stringify(
    edits.map((e) => [e.site, e.layer, e.position, e.head, e.from.layer, e.from.position, e.on]),
  );
}

export function inForce(edits: readonly Edit[]): Edit[] {
  return edits.filter((edit) => edit.on);
}

/** With one more patch; one that is there already is switched on. */
export function withEdit(edits: readonly Edit[], edit: Edit): Edit[] {
  const known = edits.some((other) => sameEdit(other, edit));
  if (!known) return [...edits, edit];
  return edits.map((other) => (sameEdit(other, edit) ? { ...other, on: true } : other));
}

export function toggled(edits: readonly Edit[], index: number): Edit[] {
  return edits.map((edit, i) => (i === index ? { ...edit, on: !edit.on } : edit));
}

export function without(edits: readonly Edit[], index: number): Edit[] {
  return edits.filter((_, i) => i !== index);
}

/** Where the value is put in the grid of a site and axis; null when it is not in that grid. */
export function targetPlace(edit: Edit, site: string, by: Axis): Cell | null {
  const column = by === "head" ? edit.head : edit.position;
  return edit.site === site && column !== null ? { point: edit.layer, position: column } : null;
}

function spotName({ layer, position }: Spot, head: number | null, token: string): string {
  const parts = [`layer ${layer}`];
  if (head !== null) parts.push(`head ${head}`);
  if (position !== null) parts.push(`${token} (${position})`.trim());
  return parts.join(" · ");
}

/** "resid pre, layer 4 · France|Italy (4)", and where the value comes from if not from there. */
export function describe(edit: Edit, data: PatchData | null): { what: string; from: string } {
  const { from, head } = edit;
  const own = edit.position === null ? null : data ? data.partner(edit.position) : edit.position;
  const elsewhere = from.layer !== edit.layer || from.position !== own;
  const name = (position: number | null, of: "positionName" | "sourceName") =>
    position === null ? "" : (data?.[of](position) ?? "");
  return {
    what: `${siteName(edit.site)}, ${spotName(edit, head, name(edit.position, "positionName"))}`,
    from: elsewhere ? `from ${spotName(from, null, name(from.position, "sourceName"))}` : "",
  };
}

const NAMES: Record<string, string> = {
  resid_pre: "resid pre",
  resid_mid: "resid mid",
  resid_post: "resid post",
  attn_out: "attn out",
  mlp_out: "MLP out",
};

export function siteName(site: string): string {
  return NAMES[site] ?? site;
}
