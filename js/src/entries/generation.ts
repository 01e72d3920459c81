import { openGeneration } from "../views/generation/open";
import { widgetOf } from "../widget";

export default widgetOf(openGeneration);
