import { splitSpaces } from "./text";

/** A token of a prompt; one that only continues the character before it is three dots. */
export function PromptToken({ token }: { token: { text: string; cont?: boolean } | undefined }) {
  if (token?.cont) {
    return (
      <span class="ll-space" title="continues the character before it">
        ⋯
      </span>
    );
  }
  return <TokenText text={token?.text ?? ""} />;
}

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
