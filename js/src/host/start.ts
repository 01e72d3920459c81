import { mount } from "../mount";
import type { OpenView } from "../views/open";
import { type Embedded, frozenModel } from "../wire/frozen";
import type { AfmModel } from "../wire/types";

/** Show the data of this page, where it has any; needs nothing beyond the file itself. */
export async function start(
  doc: Document,
  open: (model: AfmModel) => OpenView,
  around = doc,
): Promise<void> {
  const root = doc.getElementById("layerlens-root");
  const source = doc.getElementById("layerlens-data");
  if (!root || !source) return;
  try {
    const data = JSON.parse(source.textContent ?? "{}") as Embedded;
    mount(open(await frozenModel(data)), root, around);
  } catch (error) {
    root.textContent = `This page could not be shown. ${(error as Error).message}`;
  }
}
