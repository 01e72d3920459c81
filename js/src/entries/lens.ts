import { openLens } from "../views/lens/open";
import { widgetOf } from "../widget";

export default widgetOf(openLens);
