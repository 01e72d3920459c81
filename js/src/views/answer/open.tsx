import { ANSWER } from "../../wire/answer";
import { Session } from "../../wire/session";
import type { AfmModel } from "../../wire/types";
import type { OpenView } from "../open";
import { AnswerView } from "./AnswerView";
import { AnswerState } from "./state";

export function openAnswer(model: AfmModel): OpenView {
  const session = new Session(model, ANSWER);
  return {
    element: (dark) => <AnswerView state={new AnswerState(session, dark)} />,
    kept: session.traits.kept.peek(),
    dispose: () => session.dispose(),
  };
}
