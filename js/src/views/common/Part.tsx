import type { ComponentProps } from "preact";

/** A named part of a view. It is no landmark: of those each view of a page is one, and no more. */
export function Part(attributes: ComponentProps<"section">) {
  // biome-ignore lint/a11y/useSemanticElements: a fieldset is of fields, and most of this is none
  return <section {...attributes} role="group" />;
}
