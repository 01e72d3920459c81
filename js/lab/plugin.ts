// What the extension adds: launcher cards for the tour and the course, a palette command for each notebook,
// one that inserts a starter cell, and the answers of a course in the metadata of their notebook. Every service
// is optional, so one file serves JupyterLab 4 and Notebook 7.

import { keepAnswers } from "./answers";
import icon from "./icon.svg";
import type {
  Application,
  Args,
  FileBrowser,
  Launcher,
  NotebookTracker,
  Palette,
  Token,
} from "./jupyterlab";
import type { Routes, Tutorial } from "./routes";

export const OPEN = "layerlens:open-tutorial";
export const STARTER = "layerlens:insert-starter-cell";
/** Chapters of the course are named by their folder. */
const COURSE = "course/";
const TOUR = "00_tour";
const CATEGORY = "layerlens";

export const STARTER_CELL = `import layerlens as ll

model = ll.load()
ll.LensView(model, "The capital of France is")`;

export interface Services {
  palette: Palette | null;
  launcher: Launcher | null;
  browser: FileBrowser | null;
  notebooks: NotebookTracker | null;
}

export interface Plugin {
  id: string;
  description: string;
  autoStart: true;
  optional: Token[];
  activate(app: Application, ...services: unknown[]): Promise<void>;
}

/** `tokens` pairs each service with the application's token for it, null where it has none. */
export function createPlugin(tokens: Record<keyof Services, Token | null>, routes: MakeRoutes) {
  const present = (Object.keys(tokens) as (keyof Services)[]).filter((key) => tokens[key] !== null);
  const plugin: Plugin = {
    id: "layerlens:plugin",
    description: "Opens the tutorials of layerlens, inserts a first cell, keeps answers.",
    autoStart: true,
    optional: present.map((key) => tokens[key] as Token),
    async activate(app, ...given) {
      const services: Services = { palette: null, launcher: null, browser: null, notebooks: null };
      present.forEach((key, i) => {
        Object.assign(services, { [key]: given[i] ?? null });
      });
      addStarter(app, services);
      if (services.notebooks !== null) keepAnswers(document, services.notebooks);
      await addTutorials(app, services, routes(app));
    },
  };
  return plugin;
}

export type MakeRoutes = (app: Application) => Routes;

function addStarter(app: Application, { palette, notebooks }: Services): void {
  if (notebooks === null) return;
  app.commands.addCommand(STARTER, {
    label: "layerlens: Insert a starter cell",
    caption: "Insert a cell that loads a model and shows its logit lens",
    isEnabled: () => notebooks.currentWidget !== null,
    async execute() {
      await app.commands.execute("notebook:insert-cell-below");
      const cell = notebooks.currentWidget?.content.activeCell;
      cell?.model.sharedModel.setSource(STARTER_CELL);
    },
  });
  palette?.addItem({ command: STARTER, category: CATEGORY });
}

async function addTutorials(app: Application, services: Services, routes: Routes): Promise<void> {
  const tutorials = await routes.list();
  if (tutorials === null) {
    console.warn("layerlens: its server extension is not enabled, so it offers no tutorials.");
    return;
  }
  app.commands.addCommand(OPEN, {
    label: (args) => label(args, tutorials),
    caption: "Copy this tutorial into the open folder and open the copy",
    async execute({ name }) {
      try {
        const path = await routes.copy(String(name), services.browser?.model.path ?? "");
        await app.commands.execute("docmanager:open", { path });
      } catch (error) {
        await report(app, `The tutorial was not opened: ${(error as Error).message}`);
      }
    },
  });
  for (const { name } of tutorials) {
    services.palette?.addItem({ command: OPEN, category: CATEGORY, args: { name } });
  }
  const first = tutorials.find(({ name }) => name.startsWith(COURSE));
  for (const [rank, tutorial] of [
    [50, tutorials.find(({ name }) => name === TOUR)],
    [51, first],
  ] as const) {
    if (tutorial === undefined) continue;
    const args = { name: tutorial.name, card: true };
    services.launcher?.add({
      command: OPEN,
      category: "Notebook",
      rank,
      args,
      kernelIconUrl: icon,
    });
  }
}

function label({ name, card }: Args, tutorials: Tutorial[]): string {
  const ofCourse = String(name).startsWith(COURSE);
  if (card === true) return ofCourse ? "layerlens course" : "layerlens tour";
  if (name === TOUR) return "layerlens: Open the tour";
  const title = tutorials.find((tutorial) => tutorial.name === name)?.title;
  return `layerlens: Open ${ofCourse ? "the course at " : ""}“${title ?? "a tutorial"}”`;
}

async function report(app: Application, message: string): Promise<void> {
  if (app.commands.hasCommand("apputils:notify")) {
    await app.commands.execute("apputils:notify", { message, type: "error" });
  } else {
    console.error(`layerlens: ${message}`);
  }
}
