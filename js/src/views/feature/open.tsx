import { FEATURE } from "../../wire/feature";
import { Session } from "../../wire/session";
import type { AfmModel } from "../../wire/types";
import type { OpenView } from "../open";
import { FeatureView } from "./FeatureView";
import { FeatureState } from "./state";

export function openFeature(model: AfmModel): OpenView {
  const session = new Session(model, FEATURE);
  return {
    element: (dark) => <FeatureView state={new FeatureState(session, dark)} />,
    kept: session.traits.kept.peek(),
    dispose: () => session.dispose(),
  };
}
