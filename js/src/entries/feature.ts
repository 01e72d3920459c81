import { openFeature } from "../views/feature/open";
import { widgetOf } from "../widget";

export default widgetOf(openFeature);
