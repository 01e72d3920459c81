import { Session } from "../../wire/session";
import { STRIP } from "../../wire/strip";
import type { AfmModel } from "../../wire/types";
import type { OpenView } from "../open";
import { StripView } from "./StripView";
import { StripState } from "./state";

export function openStrip(model: AfmModel): OpenView {
  const session = new Session(model, STRIP);
  return {
    element: (dark) => <StripView state={new StripState(session, dark)} />,
    kept: session.traits.kept.peek(),
    dispose: () => session.dispose(),
  };
}
