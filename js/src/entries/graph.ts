import { openGraph } from "../views/graph/open";
import { widgetOf } from "../widget";

export default widgetOf(openGraph);
