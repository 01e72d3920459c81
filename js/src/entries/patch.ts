import { openPatch } from "../views/patch/open";
import { widgetOf } from "../widget";

export default widgetOf(openPatch);
