import { describe, expect, it, vi } from "vitest";
import { type Application, type Args, type Scope, sharedExport } from "../lab/jupyterlab";
import { createPlugin, OPEN, STARTER, STARTER_CELL } from "../lab/plugin";
import { createRoutes, type Routes } from "../lab/routes";

const tutorials = [
  { name: "00_tour", title: "A look inside" },
  { name: "01_heads", title: "Attention heads" },
  { name: "course/00_tokens", title: "Tokens" },
  { name: "course/01_attention", title: "Attention" },
];
const tokens = { palette: {}, launcher: {}, browser: {}, notebooks: {} };

type Command = Parameters<Application["commands"]["addCommand"]>[1];

function fakeApp() {
  const added = new Map<string, Command>();
  const execute = vi.fn(async (_id: string, _args?: Args): Promise<unknown> => undefined);
  const app: Application = {
    commands: {
      addCommand: (id, options) => added.set(id, options),
      execute,
      hasCommand: (id) => id === "apputils:notify",
    },
    serviceManager: { serverSettings: { baseUrl: "http://127.0.0.1:8888/user/a/" } },
  };
  return { app, added, execute };
}

function fakeRoutes(list: Awaited<ReturnType<Routes["list"]>> = tutorials) {
  const copy = vi.fn(async (name: string, folder: string) => `${folder}/${name}.ipynb`);
  return { list: async () => list, copy };
}

function labelOf(command: Command | undefined, args: Args): string {
  return typeof command?.label === "function" ? command.label(args) : (command?.label ?? "");
}

describe("the plugin", () => {
  it("adds launcher cards for tour and course, and a palette command for each notebook", async () => {
    const { app, added } = fakeApp();
    const palette = { addItem: vi.fn() };
    const launcher = { add: vi.fn() };
    await createPlugin(tokens, () => fakeRoutes()).activate(app, palette, launcher, null, null);
    const labels = palette.addItem.mock.calls.map(([item]) => labelOf(added.get(OPEN), item.args));
    expect(labels).toEqual([
      "layerlens: Open the tour",
      "layerlens: Open “Attention heads”",
      "layerlens: Open the course at “Tokens”",
      "layerlens: Open the course at “Attention”",
    ]);
    const cards = launcher.add.mock.calls.map(([card]) => card);
    expect(cards.map((card) => labelOf(added.get(OPEN), card.args))).toEqual([
      "layerlens tour",
      "layerlens course",
    ]);
    expect(cards.map((card) => card.args.name)).toEqual(["00_tour", "course/00_tokens"]);
    expect(cards.map((card) => card.category)).toEqual(["Notebook", "Notebook"]);
  });

  it("copies a tutorial into the folder that is open, then opens the copy", async () => {
    const { app, added, execute } = fakeApp();
    const routes = fakeRoutes();
    const browser = { model: { path: "course" } };
    await createPlugin(tokens, () => routes).activate(app, null, null, browser, null);
    await added.get(OPEN)?.execute({ name: "00_tour" });
    expect(routes.copy).toHaveBeenCalledWith("00_tour", "course");
    expect(execute).toHaveBeenCalledWith("docmanager:open", { path: "course/00_tour.ipynb" });
  });

  it("asks only for the services that the application has", async () => {
    const { app } = fakeApp();
    const palette = { addItem: vi.fn() };
    const notebookSeven = { ...tokens, launcher: null, browser: null };
    const plugin = createPlugin(notebookSeven, () => fakeRoutes());
    expect(plugin.optional).toEqual([tokens.palette, tokens.notebooks]);
    await plugin.activate(app, palette, { currentWidget: null });
    expect(palette.addItem).toHaveBeenCalledTimes(1 + tutorials.length);
  });

  it("offers no tutorial where the server extension is not enabled", async () => {
    const { app, added } = fakeApp();
    const warn = vi.spyOn(console, "warn").mockImplementation(() => undefined);
    await createPlugin(tokens, () => fakeRoutes(null)).activate(app, null, null, null, null);
    expect(added.has(OPEN)).toBe(false);
    expect(warn).toHaveBeenCalledOnce();
  });

  it("shows the server's sentence when a copy fails", async () => {
    const { app, added, execute } = fakeApp();
    const routes = { ...fakeRoutes(), copy: () => Promise.reject(new Error("No such folder.")) };
    await createPlugin(tokens, () => routes).activate(app, null, null, null, null);
    await added.get(OPEN)?.execute({ name: "00_tour" });
    expect(execute).toHaveBeenCalledWith("apputils:notify", {
      message: "The tutorial was not opened: No such folder.",
      type: "error",
    });
  });

  it("fills a new cell with the starter, and only where a notebook is open", async () => {
    const { app, added, execute } = fakeApp();
    const setSource = vi.fn();
    const cell = { model: { sharedModel: { setSource } } };
    const tracker = { currentWidget: null as null | object };
    await createPlugin(tokens, () => fakeRoutes()).activate(app, null, null, null, tracker);
    expect(added.get(STARTER)?.isEnabled?.()).toBe(false);
    tracker.currentWidget = { content: { activeCell: cell } };
    expect(added.get(STARTER)?.isEnabled?.()).toBe(true);
    await added.get(STARTER)?.execute({});
    expect(execute).toHaveBeenCalledWith("notebook:insert-cell-below");
    expect(setSource).toHaveBeenCalledWith(STARTER_CELL);
  });
});

describe("the routes", () => {
  const settings = { baseUrl: "http://127.0.0.1:8888/user/a/" };

  it("stay under the base URL of a hub", async () => {
    const request = vi.fn(async () => Response.json(tutorials));
    expect(await createRoutes(request, settings).list()).toEqual(tutorials);
    expect(request).toHaveBeenCalledWith(
      "http://127.0.0.1:8888/user/a/layerlens/tutorials",
      {},
      settings,
    );
  });

  it("tell a server without the extension from one with it", async () => {
    const request = async () => new Response("", { status: 404 });
    expect(await createRoutes(request, settings).list()).toBeNull();
  });

  it("pass the server's own message on", async () => {
    const request = async () => Response.json({ message: "No tutorial." }, { status: 400 });
    await expect(createRoutes(request, settings).copy("x", "")).rejects.toThrow("No tutorial.");
  });
});

describe("shared modules", () => {
  it("are found whatever their version, or are null", async () => {
    const scope: Scope = { pkg: { "4.6.6": { get: async () => () => ({ IThing: "token" }) } } };
    expect(await sharedExport(scope, "pkg", "IThing")).toBe("token");
    expect(await sharedExport(scope, "pkg", "IOther")).toBeNull();
    expect(await sharedExport(scope, "absent", "IThing")).toBeNull();
  });
});
