import { SCATTER } from "../../wire/scatter";
import { Session } from "../../wire/session";
import type { AfmModel } from "../../wire/types";
import type { OpenView } from "../open";
import { ScatterView } from "./ScatterView";
import { ScatterState } from "./state";

export function openScatter(model: AfmModel): OpenView {
  const session = new Session(model, SCATTER);
  return {
    element: (dark) => <ScatterView state={new ScatterState(session, dark)} />,
    kept: session.traits.kept.peek(),
    dispose: () => session.dispose(),
  };
}
