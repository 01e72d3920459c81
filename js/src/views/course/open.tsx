import { COURSE } from "../../wire/course";
import { Traits } from "../../wire/traits";
import type { AfmModel } from "../../wire/types";
import type { OpenView } from "../open";
import { CourseView } from "./CourseView";
import { CourseState, type Reveal } from "./state";

/** What a host of anywidget offers for showing another widget inside one's own. */
export interface WidgetHost {
  getWidget(reference: string): Promise<{
    render(place: { el: HTMLElement; signal: AbortSignal }): Promise<void>;
  }>;
}

/** Open a question; `reveal` shows a figure that came with the page, where there is no host. */
export function openCourse(model: AfmModel, reveal?: Reveal): OpenView {
  const own = new Traits(model, COURSE);
  let host: WidgetHost | undefined;
  const byHost: Reveal = async (figure, el) => {
    if (host === undefined) throw new Error("This notebook shows no view inside another.");
    const shown = await host.getWidget(String(figure));
    const stop = new AbortController();
    await shown.render({ el, signal: stop.signal });
    return () => stop.abort();
  };
  return {
    element: (dark) => <CourseView state={new CourseState(own, dark, reveal ?? byHost)} />,
    hosted(given) {
      host = given as WidgetHost;
    },
    dispose: () => own.dispose(),
  };
}
