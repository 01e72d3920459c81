import { openScatter } from "../views/scatter/open";
import { widgetOf } from "../widget";

export default widgetOf(openScatter);
