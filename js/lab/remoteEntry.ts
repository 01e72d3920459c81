// The container that JupyterLab loads: a hand-written equal of what module federation would build.

import { type Request, type Scope, sharedExport, type Token } from "./jupyterlab";
import { createPlugin } from "./plugin";
import { createRoutes } from "./routes";

declare global {
  interface Window {
    _JUPYTERLAB: Record<string, unknown>;
  }
}

let scope: Scope = {};

async function extension() {
  const find = (packageName: string, name: string) => sharedExport(scope, packageName, name);
  const tokens = {
    palette: (await find("@jupyterlab/apputils", "ICommandPalette")) as Token | null,
    launcher: (await find("@jupyterlab/launcher", "ILauncher")) as Token | null,
    browser: (await find("@jupyterlab/filebrowser", "IDefaultFileBrowser")) as Token | null,
    notebooks: (await find("@jupyterlab/notebook", "INotebookTracker")) as Token | null,
  };
  const services = await find("@jupyterlab/services", "ServerConnection");
  const { makeRequest } = services as { makeRequest: Request };
  const plugin = createPlugin(tokens, (app) =>
    createRoutes(makeRequest, app.serviceManager.serverSettings),
  );
  return () => ({ __esModule: true, default: plugin });
}

window._JUPYTERLAB ??= {};
window._JUPYTERLAB.layerlens = {
  init(shared: Scope) {
    scope = shared;
  },
  get: extension,
};
