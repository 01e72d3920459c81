import { start } from "./host/start";
import { mount } from "./mount";
import type { OpenView } from "./views/open";
import type { AfmModel } from "./wire/types";

interface Hook {
  model: AfmModel;
  signal?: AbortSignal;
  host?: unknown;
}

/**
 * A widget as anywidget's front-end module format wants it, from what opens its view.
 *
 * A factory, so that nothing is shared through the module: hosts call it once a widget. The view is
 * opened in `initialize` and found again in `render`, where the model may be another proxy of the
 * same model, so a lone view is taken without comparing.
 */
export function widgetOf(open: (model: AfmModel) => OpenView) {
  // In a page that a view without a kernel wrote, this module is the host too.
  if (globalThis.document?.documentElement.dataset.layerlens) void start(document, open);
  return () => {
    const views = new Map<AfmModel, OpenView>();

    function viewOf(model: AfmModel): OpenView {
      const own = views.get(model);
      if (own) return own;
      const [only] = views.values();
      if (only && views.size === 1) return only;
      const made = open(model);
      views.set(model, made);
      return made;
    }

    return {
      initialize({ model }: Hook) {
        const view = open(model);
        views.set(model, view);
        return () => {
          view.dispose();
          views.delete(model);
        };
      },
      render({ model, el, host }: Hook & { el: HTMLElement }) {
        const view = viewOf(model);
        view.hosted?.(host);
        return mount(view, el);
      },
    };
  };
}
