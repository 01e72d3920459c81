import { mount } from "./mount";
import { Session } from "./wire/session";
import type { AfmModel } from "./wire/types";

interface Hook {
  model: AfmModel;
  signal?: AbortSignal;
}

/**
 * The widget as anywidget's front-end module format wants it.
 *
 * A factory, so that nothing is shared through the module: hosts call it once a widget. The session
 * is made in `initialize` and found again in `render`, where the model may be another proxy of the
 * same model, so a lone session is taken without comparing.
 */
export default function widget() {
  const sessions = new Map<AfmModel, Session>();

  function sessionOf(model: AfmModel): Session {
    const own = sessions.get(model);
    if (own) return own;
    const [only] = sessions.values();
    if (only && sessions.size === 1) return only;
    const made = new Session(model);
    sessions.set(model, made);
    return made;
  }

  return {
    initialize({ model }: Hook) {
      const session = new Session(model);
      sessions.set(model, session);
      return () => {
        session.dispose();
        sessions.delete(model);
      };
    },
    render({ model, el }: Hook & { el: HTMLElement }) {
      return mount(sessionOf(model), el);
    },
  };
}
