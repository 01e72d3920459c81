import { PATCH } from "../../wire/patch";
import { Session } from "../../wire/session";
import type { AfmModel } from "../../wire/types";
import { isUndo } from "../common/shortcuts";
import type { OpenView } from "../open";
import { PatchView } from "./PatchView";
import { PatchState } from "./state";

export function openPatch(model: AfmModel): OpenView {
  const session = new Session(model, PATCH);
  return {
    element: (dark) => <PatchView state={new PatchState(session, dark)} />,
    keeps: isUndo,
    kept: session.traits.kept.peek(),
    dispose: () => session.dispose(),
  };
}
