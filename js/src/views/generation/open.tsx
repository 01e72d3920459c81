import { GENERATION } from "../../wire/generation";
import { Session } from "../../wire/session";
import type { AfmModel } from "../../wire/types";
import type { OpenView } from "../open";
import { GenerationView } from "./GenerationView";
import { GenerationState } from "./state";

export function openGeneration(model: AfmModel): OpenView {
  const session = new Session(model, GENERATION);
  return {
    element: (dark) => <GenerationView state={new GenerationState(session, dark)} />,
    kept: session.traits.kept.peek(),
    dispose: () => session.dispose(),
  };
}
