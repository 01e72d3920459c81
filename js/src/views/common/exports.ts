import { toBytes } from "../../wire/decode";
import type { Session } from "../../wire/session";

export const FORMATS = ["html", "png", "svg", "pdf", "csv"] as const;
export type Format = (typeof FORMATS)[number];

/** Ask the kernel for a file of what is on screen and hand it to the browser as a download. */
export async function download(
  session: Session,
  format: Format,
  dark: boolean,
  near: HTMLElement,
): Promise<void> {
  const { result, buffers } = await session.rpc.request("export", { format, dark });
  const { name, mime } = result as { name: string; mime: string };
  const bytes = buffers[0];
  if (!bytes) throw new Error("The kernel sent an empty file.");
  save(toBytes(bytes) as BlobPart, name, mime, near);
}

/** Hand a file to the browser as a download. */
export function save(content: BlobPart, name: string, mime: string, near: HTMLElement): void {
  const url = URL.createObjectURL(new Blob([content], { type: mime }));
  const link = near.ownerDocument.createElement("a");
  link.href = url;
  link.download = name;
  link.click();
  // The download reads the address after this task.
  setTimeout(() => URL.revokeObjectURL(url), 10_000);
}

/** A call with what must run before it; empty when there is no call. */
export function runnable(setup: string | undefined, code: string): string {
  return code && `${setup ? `${setup}\n` : ""}${code}\n`;
}

/** Copy text, also where the clipboard API is not allowed (http, file, sandboxed frames). */
export async function copyText(text: string, near: HTMLElement): Promise<boolean> {
  try {
    await navigator.clipboard.writeText(text);
    return true;
  } catch {
    const area = near.ownerDocument.createElement("textarea");
    area.value = text;
    area.className = "ll-offscreen";
    near.append(area);
    area.select();
    const done = near.ownerDocument.execCommand?.("copy") ?? false;
    area.remove();
    return done;
  }
}
