import { METRICS } from "../../wire/metrics";
import { Session } from "../../wire/session";
import type { AfmModel } from "../../wire/types";
import type { OpenView } from "../open";
import { MetricsView } from "./MetricsView";
import { MetricsState } from "./state";

export function openMetrics(model: AfmModel): OpenView {
  const session = new Session(model, METRICS);
  return {
    element: (dark) => <MetricsView state={new MetricsState(session, dark)} />,
    kept: session.traits.kept.peek(),
    dispose: () => session.dispose(),
  };
}
