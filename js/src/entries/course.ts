import { openCourse } from "../views/course/open";
import { widgetOf } from "../widget";

export default widgetOf(openCourse);
