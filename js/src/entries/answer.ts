import { openAnswer } from "../views/answer/open";
import { widgetOf } from "../widget";

export default widgetOf(openAnswer);
