import { openMetrics } from "../views/metrics/open";
import { widgetOf } from "../widget";

export default widgetOf(openMetrics);
