import { openAttention } from "../views/attention/open";
import { widgetOf } from "../widget";

export default widgetOf(openAttention);
