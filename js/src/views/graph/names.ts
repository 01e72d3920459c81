import { compact } from "../../marks/numbers";
import { plain } from "../../marks/text";
import type { GraphData } from "./data";

/** What a node is, short: "␣Paris", "feature 512", "error". */
export function shortName(data: GraphData, node: number): string {
  switch (data.kind(node)) {
    case "token":
      return data.words(node) || data.token(data.position(node));
    case "output":
      return data.words(node) || data.store.vocab.get(data.feature(node)) || data.id(node);
    case "error":
      return "error";
    case "part":
      return data.words(node);
    case "coordinate":
      return `coordinate ${data.feature(node)}`;
    case "feature":
      return `feature ${data.feature(node)}`;
  }
}

/** Where a node is: "block 3, at “␣of”". */
export function placeName(data: GraphData, node: number): string {
  const at = `position ${data.position(node)}, “${data.token(data.position(node))}”`;
  switch (data.kind(node)) {
    case "part":
      return "all positions";
    case "token":
      return `position ${data.position(node)}`;
    case "coordinate":
      return `${stateName(data.layer(node))}, module ${data.position(node) + 1}`;
    case "output":
      return "output";
    default:
      return `layer ${data.layer(node)}, ${at}`;
  }
}

/** "after layer 3"; before the first, the embedding. */
function stateName(layer: number): string {
  return layer < 0 ? "embedding" : `after layer ${layer}`;
}

/** What stands on an answer: its token and its probability. */
export function outputName(data: GraphData, node: number): string {
  return `${plain(shortName(data, node))} ${compact(data.probability(node), 2)}`;
}

/** A node in one sentence, for a label that is read out; it begins with what is seen. */
export function sentence(data: GraphData, node: number): string {
  const seen = data.kind(node) === "output" ? outputName : shortName;
  const parts = [plain(seen(data, node)), placeName(data, node)];
  if (data.kind(node) === "feature" && data.words(node)) parts.push(data.words(node));
  const activation = data.activation(node);
  if (Number.isFinite(activation)) parts.push(`activation ${compact(activation, 3)}`);
  if (data.kind(node) !== "output") parts.push(`${percent(data.influence(node))} of the answers`);
  parts.push(`${data.inputs[node]?.length} in, ${data.outputs[node]?.length} out`);
  return parts.join("; ");
}

export function percent(share: number): string {
  return `${compact(100 * share, 2)} %`;
}
