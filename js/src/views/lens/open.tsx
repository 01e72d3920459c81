import { LENS } from "../../wire/lens";
import { Session } from "../../wire/session";
import type { AfmModel } from "../../wire/types";
import type { OpenView } from "../open";
import { LensView } from "./LensView";
import { OtherState, ViewState } from "./state";

export function openLens(model: AfmModel): OpenView {
  const session = new Session(model, LENS);
  return {
    element: (dark) => (
      <LensView state={new ViewState(session, dark)} other={new OtherState(session, dark)} />
    ),
    kept: session.traits.kept.peek(),
    dispose: () => session.dispose(),
  };
}
