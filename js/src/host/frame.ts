// A page of a view inside another page, see layerlens/export/inline.py.

/** The frame that this page is in, where the page around it may be looked at. */
export function frameOf(page: Window): HTMLElement | null {
  try {
    return page.frameElement as HTMLElement | null;
  } catch {
    return null;
  }
}

/** Keep a frame as high as what is in it. */
export function keepHeight(frame: HTMLElement, doc: Document): void {
  doc.body.style.margin = "0";
  new ResizeObserver(() => {
    frame.style.height = `${Math.ceil(doc.body.getBoundingClientRect().height)}px`;
  }).observe(doc.body);
}
