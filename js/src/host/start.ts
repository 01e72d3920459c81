import { mount } from "../mount";
import type { OpenView } from "../views/open";
import { FrozenModel } from "../wire/frozen";
import type { AfmModel } from "../wire/types";

interface PageData {
  traits: Record<string, unknown>;
  /** The packed snapshot, base64. */
  packed: string;
}

/** Base64 by the browser's own decoder, which is several times quicker than a loop in script. */
async function decodeBase64(text: string): Promise<Uint8Array> {
  if (!text) return new Uint8Array();
  const response = await fetch(`data:application/octet-stream;base64,${text}`);
  return new Uint8Array(await response.arrayBuffer());
}

/** Show the data of this page, where it has any; needs nothing beyond the file itself. */
export async function start(doc: Document, open: (model: AfmModel) => OpenView): Promise<void> {
  const root = doc.getElementById("layerlens-root");
  const source = doc.getElementById("layerlens-data");
  if (!root || !source) return;
  try {
    const data = JSON.parse(source.textContent ?? "{}") as PageData;
    const snapshot = await decodeBase64(data.packed);
    mount(open(new FrozenModel({ ...data.traits, snapshot })), root);
  } catch (error) {
    root.textContent = `This page could not be shown. ${(error as Error).message}`;
  }
}
