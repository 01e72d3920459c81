import { ATTENTION } from "../../wire/attention";
import { Session } from "../../wire/session";
import type { AfmModel } from "../../wire/types";
import type { OpenView } from "../open";
import { AttentionView } from "./AttentionView";
import { AttentionState } from "./state";

export function openAttention(model: AfmModel): OpenView {
  const session = new Session(model, ATTENTION);
  return {
    element: (dark) => <AttentionView state={new AttentionState(session, dark)} />,
    kept: session.traits.kept.peek(),
    dispose: () => session.dispose(),
  };
}
