import { useSignal } from "@preact/signals";
import { TokenText } from "../../marks/TokenText";
import { plain } from "../../marks/text";
import type { TokenInfo } from "../../wire/types";
import { More } from "../common/More";
import { PictureOf } from "../common/Shell";
import type { PatchData } from "./data";
import { type Column, columnsOf } from "./links";
import { Pairing } from "./Pairing";
import type { PatchState } from "./state";

/** A long pair of prompts shows its beginning; the rest is one press away. */
const SHOWN = 40;

interface Props {
  state: PatchState;
  data: PatchData;
}

/** Both prompts token under token, what belongs together in one column; a press selects it. */
export function Pairs({ state, data }: Props) {
  const all = useSignal(false);
  const pairing = useSignal(false);
  const { meta } = data;
  const links = state.links.value;
  const counts = [meta.clean_tokens.length, meta.corrupt_tokens.length] as const;
  const columns = columnsOf(links, ...counts);
  const shown = all.value ? columns : columns.slice(0, SHOWN);
  const live = state.session.live.value;
  const open = pairing.value && live;
  return (
    <div class="ll-fed">
      <PictureOf state={state} />
      <span class="ll-dim">{summary(data)}</span>
      <span class={state.outdated.value ? "ll-chips ll-old" : "ll-chips"} dir="ltr">
        {open ? (
          <Pairing
            state={state}
            data={data}
            columns={shown}
            leave={() => {
              pairing.value = false;
            }}
          />
        ) : (
          shown.map((column) => (
            <Couple key={column.join()} state={state} data={data} column={column} />
          ))
        )}
        {columns.length > SHOWN && <More all={all} count={columns.length} />}
      </span>
      {live && (
        <button
          type="button"
          class="ll-link"
          aria-pressed={open}
          title="Say which tokens of the two prompts belong together"
          onClick={() => {
            pairing.value = !pairing.peek();
          }}
        >
          {open ? "Done pairing" : "Pair tokens"}
        </button>
      )}
      {counts[0] !== counts[1] && (
        <p class="ll-note ll-notes">
          {state.ownPairs.value
            ? "Paired by hand."
            : "The prompts are not equally long: equal tokens were paired, and what lies between them from its end."}
          {" A value moves only between tokens of a pair."}
        </p>
      )}
      {meta.notes.length > 0 && <p class="ll-note ll-notes">{meta.notes.join(" · ")}</p>}
    </div>
  );
}

function summary({ meta }: PatchData): string {
  const { clean_tokens: clean, corrupt_tokens: corrupt, differing } = meta;
  const verb = differing.length === 1 ? "differs" : "differ";
  const counts = new Set([clean.length, corrupt.length]);
  const tokens = clean.length === 1 && counts.size === 1 ? "token" : "tokens";
  return `${[...counts].join(" and ")} ${tokens}, ${differing.length} ${verb}`;
}

function Couple({ state, data, column }: Props & { column: Column }) {
  const { meta } = data;
  const [clean, corrupt] = [
    column[0] === null ? undefined : meta.clean_tokens[column[0]],
    column[1] === null ? undefined : meta.corrupt_tokens[column[1]],
  ];
  const own = meta.patched === "clean" ? column[0] : column[1];
  const chosen = own !== null && state.session.traits.position.value === own;
  const differs = own === null || data.differs(own);
  const name = ["ll-chip ll-couple", chosen && "ll-chosen", differs && "ll-differs"];
  return (
    <button
      type="button"
      tabIndex={-1}
      class={name.filter(Boolean).join(" ")}
      title={coupleTitle(column, clean, corrupt, differs)}
      disabled={own === null}
      onClick={() => own !== null && state.session.write({ position: own })}
    >
      <Token token={clean} />
      <Token token={corrupt} />
      {differs && <span class="ll-offscreen">differs</span>}
    </button>
  );
}

function coupleTitle(
  [c, k]: Column,
  clean: TokenInfo | undefined,
  corrupt: TokenInfo | undefined,
  differs: boolean,
): string {
  const of = (token: TokenInfo | undefined) =>
    token ? `${plain(token.text)} (id ${token.id})` : "nothing";
  const where = c === k ? `position ${c}` : `positions ${c ?? "–"} and ${k ?? "–"}`;
  if (!differs) return `${where}: ${of(clean)} in both`;
  return `${where}: ${of(clean)} in the clean prompt, ${of(corrupt)} in the corrupted one`;
}

export function Token({ token }: { token: TokenInfo | undefined }) {
  if (!token) return <span class="ll-space">∅</span>;
  return token.cont ? <span class="ll-space">⋯</span> : <TokenText text={token.text} />;
}
