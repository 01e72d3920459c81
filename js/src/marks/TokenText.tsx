import { splitSpaces } from "./text";

/** Token text as text nodes only, spaces marked, kept apart from the direction of its surroundings. */
export function TokenText({ text }: { text: string }) {
  const { lead, body, tail } = splitSpaces(text);
  return (
    <bdi class="ll-token" dir="auto">
      {lead && <span class="ll-space">{lead}</span>}
      {body}
      {tail && <span class="ll-space">{tail}</span>}
      {!lead && !body && !tail && <span class="ll-space">(empty)</span>}
    </bdi>
  );
}
