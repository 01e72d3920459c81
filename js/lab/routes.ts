// The two calls to the server extension, layerlens/jupyter/handlers.py.

import type { Request, ServerSettings } from "./jupyterlab";

export interface Tutorial {
  name: string;
  title: string;
}

export interface Routes {
  /** The tutorials of the server, or null where its extension is not enabled. */
  list(): Promise<Tutorial[] | null>;
  /** Copies a tutorial into a folder of the user; resolves to the path of the copy. */
  copy(name: string, folder: string): Promise<string>;
}

export function createRoutes(request: Request, settings: ServerSettings): Routes {
  const url = `${settings.baseUrl.replace(/\/$/, "")}/layerlens/tutorials`;
  return {
    async list() {
      const response = await request(url, {}, settings);
      return response.ok ? ((await response.json()) as Tutorial[]) : null;
    },
    async copy(name, folder) {
      const init = { method: "POST", body: JSON.stringify({ name, folder }) };
      const response = await request(url, init, settings);
      const answer = (await response.json()) as { path?: string; message?: string };
      if (!response.ok || answer.path === undefined) {
        throw new Error(answer.message ?? `The server answered ${response.status}.`);
      }
      return answer.path;
    },
  };
}
