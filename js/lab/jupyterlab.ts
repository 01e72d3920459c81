// The few parts of JupyterLab's API that the extension uses, and how it gets at them: through the
// modules that the application shares with its extensions at run time. This spares the extension
// JupyterLab's own build tools and some two hundred megabytes of packages.

export interface Commands {
  addCommand(
    id: string,
    options: {
      label: string | ((args: Args) => string);
      caption?: string;
      execute: (args: Args) => unknown;
      isEnabled?: () => boolean;
    },
  ): unknown;
  execute(id: string, args?: Args): Promise<unknown>;
  hasCommand(id: string): boolean;
}

export type Args = Record<string, unknown>;

export interface ServerSettings {
  readonly baseUrl: string;
}

export interface Application {
  readonly commands: Commands;
  readonly serviceManager: { readonly serverSettings: ServerSettings };
}

export interface Palette {
  addItem(item: { command: string; category: string; args?: Args }): unknown;
}

export interface Launcher {
  add(item: {
    command: string;
    category: string;
    rank?: number;
    args?: Args;
    kernelIconUrl?: string;
  }): unknown;
}

export interface FileBrowser {
  readonly model: { readonly path: string };
}

export interface NotebookModel {
  getMetadata(key: string): unknown;
  setMetadata(key: string, value: unknown): void;
}

export interface NotebookPanel {
  readonly node: EventTarget;
  readonly model: NotebookModel | null;
}

export interface NotebookTracker {
  find(is: (panel: NotebookPanel) => boolean): NotebookPanel | undefined;
  readonly currentWidget: {
    readonly content: {
      readonly activeCell: {
        readonly model: { readonly sharedModel: { setSource(source: string): void } };
      } | null;
    };
  } | null;
}

export type Request = (
  url: string,
  init: RequestInit,
  settings: ServerSettings,
) => Promise<Response>;

/** A service that an application may or may not have; Notebook 7 has no launcher. */
export type Token = object;

interface Shared {
  get(): Promise<() => Record<string, unknown>> | (() => Record<string, unknown>);
}

/** What webpack's module federation hands to a container: package, version, module. */
export type Scope = Record<string, Record<string, Shared>>;

/** One export of a package that the application shares, or null if it shares none such. */
export async function sharedExport(
  scope: Scope,
  packageName: string,
  name: string,
): Promise<unknown> {
  const [shared] = Object.values(scope[packageName] ?? {});
  if (shared === undefined) return null;
  const factory = await shared.get();
  return factory()[name] ?? null;
}
