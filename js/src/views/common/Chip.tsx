import { PromptToken } from "../../marks/TokenText";

interface Props {
  token: { text: string; cont?: boolean };
  /** The token behind it, which a character that is split goes on in. */
  next?: { cont?: boolean } | undefined;
  title: string;
  /** What stands before it in capitals, such as BOS. */
  tag?: string | false;
  marks?: readonly (string | false)[];
  /** Without it nothing happens on a press, and it is no button. */
  press?: () => void;
}

/** A token of a text. Keys move in the table, so none of a long text is a stop of the Tab key. */
export function Chip({ token, next, title, tag, marks = [], press }: Props) {
  const names = ["ll-chip", token.cont && "ll-joined-left", next?.cont && "ll-joined-right"];
  const look = [...names, ...marks].filter(Boolean).join(" ");
  const inside = (
    <>
      {tag && <span class="ll-bos">{tag}</span>}
      <PromptToken token={token} />
    </>
  );
  return press ? (
    <button type="button" tabIndex={-1} class={look} title={title} onClick={press}>
      {inside}
    </button>
  ) : (
    <span class={look} title={title}>
      {inside}
    </span>
  );
}
