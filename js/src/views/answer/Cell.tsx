import { compact } from "../../marks/numbers";
import { TokenText } from "../../marks/TokenText";
import type { CellPanel } from "../../wire/answer";
import { CopyCode } from "../common/Copy";
import { Part } from "../common/Part";
import { Terms } from "../common/Term";
import type { AnswerState } from "./state";

/** How much colour the strongest mark has, in per cent: letters stay readable on it. */
const STRONGEST = 50;

/** What the selected cell is made of: tables, and texts with marked tokens. */
export function Cell({ state, near = "cell" }: { state: AnswerState; near?: "cell" | "field" }) {
  const opened = state.opened.value;
  if (!opened || state.near.value !== near) return null;
  return (
    <Part class="ll-cell" aria-label="The cell" aria-busy={opened.state === "asked"}>
      <div class="ll-float-head">
        {/* A row of a table below may have opened it. */}
        <h4 ref={(title) => title?.scrollIntoView?.({ block: "nearest" })}>
          {opened.state === "shown" ? opened.panel.title : "Cell"}
        </h4>
        <button
          type="button"
          class="ll-icon"
          aria-label="Close"
          title="Close (Escape)"
          onClick={() => state.close()}
        >
          ✕
        </button>
      </div>
      {opened.state === "asked" && (
        <p class="ll-note" role="status">
          Asking the model…
        </p>
      )}
      {opened.state === "failed" && (
        <p class="ll-error" role="alert">
          {opened.problem}
        </p>
      )}
      {opened.state === "shown" && <Inside state={state} panel={opened.panel} />}
    </Part>
  );
}

function Inside({ state, panel }: { state: AnswerState; panel: CellPanel }) {
  const { code, tables, texts } = panel;
  return (
    <>
      <div class="ll-cell-tables">
        {tables.map((table, i) => (
          // The place is the identity: nothing of a panel changes while it is open.
          <Table key={i} state={state} table={table} />
        ))}
      </div>
      {texts.map(({ tokens }, i) => (
        <p key={i} class="ll-marked" dir="auto">
          {tokens.map(({ text, mark }, at) => (
            <span
              key={at}
              style={{ "--ll-mark": `${Math.round(STRONGEST * Math.min(1, Math.max(0, mark)))}%` }}
              class={mark > 0 ? "ll-lit" : undefined}
              title={mark > 0 ? compact(mark, 3) : undefined}
            >
              <TokenText text={text} />
              <wbr />
            </span>
          ))}
        </p>
      ))}
      {code && (
        <CopyCode
          code={code}
          setup={state.meta.value?.setup ?? ""}
          label="Copy as Python"
          missing="Nothing to copy."
        />
      )}
    </>
  );
}

function Table({ state, table }: { state: AnswerState; table: CellPanel["tables"][number] }) {
  return (
    <table>
      {table.title && (
        <caption title={table.title}>
          <TokenText text={table.title} />
        </caption>
      )}
      <thead>
        <tr>
          {table.head.map((name, i) => (
            <th scope="col" key={i}>
              <Terms state={state} text={name} />
            </th>
          ))}
        </tr>
      </thead>
      <tbody>
        {table.rows.map((row, i) => {
          const opens = table.opens[i];
          return (
            <tr key={i}>
              {row.map((value, k) => (
                <td key={k} class={typeof value === "string" ? undefined : "ll-num"}>
                  {opens && k === 0 ? (
                    <button
                      type="button"
                      class="ll-plain"
                      title="Open it"
                      onClick={() => state.openLabelled(opens)}
                    >
                      {value}
                    </button>
                  ) : typeof value === "string" ? (
                    <TokenText text={value} />
                  ) : (
                    compact(value ?? Number.NaN)
                  )}
                </td>
              ))}
            </tr>
          );
        })}
      </tbody>
    </table>
  );
}
