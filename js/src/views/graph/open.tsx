import { GRAPH } from "../../wire/graph";
import { Session } from "../../wire/session";
import type { AfmModel } from "../../wire/types";
import type { OpenView } from "../open";
import { GraphView } from "./GraphView";
import { GraphState } from "./state";

export function openGraph(model: AfmModel): OpenView {
  const session = new Session(model, GRAPH);
  return {
    element: (dark) => <GraphView state={new GraphState(session, dark)} />,
    kept: session.traits.kept.peek(),
    dispose: () => session.dispose(),
  };
}
