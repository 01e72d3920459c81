import { openStrip } from "../views/strip/open";
import { widgetOf } from "../widget";

export default widgetOf(openStrip);
