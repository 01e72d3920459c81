import { compact } from "../../marks/numbers";
import { TokenText } from "../../marks/TokenText";
import { whole } from "../common/format";
import { Part } from "../common/Part";
import type { FeatureData } from "./data";
import { percent } from "./names";
import type { FeatureState } from "./state";

/** How much colour the strongest mark has, in per cent: letters stay readable on it. */
const STRONGEST = 42;

interface Props {
  state: FeatureState;
  data: FeatureData;
}

/** The strongest examples, then some of each band of strengths. */
export function Examples({ state, data }: Props) {
  const top = data.examples(0);
  const firings = data.one("firings");
  if (firings === 0) return null; // how often it is on has said so
  return (
    <Part class="ll-feature-part" aria-label="Examples">
      <h4>When it is on</h4>
      {top.length > 0 && (
        <table class="ll-feature-examples">
          <caption>The strongest, one in a text</caption>
          <Head data={data} top />
          <tbody>
            {top.map((example, rank) => (
              <Example key={example} state={state} data={data} example={example} rank={rank} />
            ))}
          </tbody>
        </table>
      )}
      {data.bands().map(
        ({ from, to, count, examples }, i) =>
          to > 0 &&
          count > 0 && (
            <table key={i} class="ll-feature-examples">
              <caption>
                From {compact(from, 3)} to {compact(to, 3)}: {whole(count)} of {whole(firings)}{" "}
                tokens, {percent(count / firings)}
              </caption>
              <Head data={data} />
              <tbody>
                {examples.map((example) => (
                  <Example key={example} state={state} data={data} example={example} />
                ))}
              </tbody>
            </table>
          ),
      )}
    </Part>
  );
}

function Head({ data, top = false }: { data: FeatureData; top?: boolean }) {
  return (
    <thead class={top ? undefined : "ll-offscreen"}>
      <tr>
        <th scope="col">on</th>
        {top && data.has("shuffled_activation") && (
          <th scope="col" title="At the same token, where the text is shuffled">
            shuffled
          </th>
        )}
        {top && (
          <>
            <th
              scope="col"
              title="KL divergence in nats of the next token there, without the feature"
            >
              without, nats
            </th>
            <th
              scope="col"
              title={`As much taken out along feature ${data.one("other_feature")}, which is on about as often`}
            >
              another, nats
            </th>
          </>
        )}
        <th scope="col" class="ll-feature-text">
          text
        </th>
        <th scope="col">
          <span class="ll-offscreen">whole text</span>
        </th>
      </tr>
    </thead>
  );
}

function Example({ state, data, example, rank }: Props & { example: number; rank?: number }) {
  const live = state.own.live.value;
  const text = data.at("text", example);
  return (
    <tr>
      <td class="ll-num">{compact(data.at("activation", example), 3)}</td>
      {rank !== undefined && <Beside data={data} rank={rank} />}
      <td class="ll-feature-text" dir="auto">
        {data.context(example).map(({ text, mark, own }, i) => (
          <span
            // The place is the identity: a token may occur twice.
            key={i}
            style={{ "--ll-mark": `${Math.round(STRONGEST * Math.min(1, mark))}%` }}
            class={[mark > 0 && "ll-lit", own && "ll-feature-own"].filter(Boolean).join(" ")}
            title={mark > 0 ? compact(mark * data.one("largest"), 3) : undefined}
          >
            <TokenText text={text} />
            <wbr />
          </span>
        ))}
      </td>
      <td>
        {live && (
          <button
            type="button"
            class="ll-plain"
            aria-label={`Open the whole text ${text}`}
            title={`Text ${text}, whole`}
            onClick={() => state.openExample(example)}
          >
            Open
          </button>
        )}
      </td>
    </tr>
  );
}

/** What stands beside one of the strongest: its controls. */
function Beside({ data, rank }: { data: FeatureData; rank: number }) {
  return (
    <>
      {data.has("shuffled_activation") && (
        <td class="ll-num ll-dim">{compact(data.at("shuffled_activation", rank), 3)}</td>
      )}
      <td class="ll-num">{compact(data.at("kl_without", rank), 2)}</td>
      <td class="ll-num ll-dim">{compact(data.at("other_kl_without", rank), 2)}</td>
    </>
  );
}
