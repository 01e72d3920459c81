/** Questions to the kernel: one reply or one error each, and a way to take the question back. */

export interface Reply {
  result: unknown;
  buffers: DataView[];
}

interface Waiting {
  resolve(reply: Reply): void;
  reject(error: Error): void;
}

export class NoKernelError extends Error {}

const NO_KERNEL = "This needs a running kernel; there is none here.";

export class Rpc {
  readonly #waiting = new Map<string, Waiting>();
  readonly #prefix: string;
  #count = 0;

  constructor(
    private readonly send: (content: unknown) => void,
    private readonly live: () => boolean,
  ) {
    // Every page showing the same model sees every reply, so ids must differ between pages.
    this.#prefix = Math.random().toString(36).slice(2, 8);
  }

  request(method: string, params: unknown, signal?: AbortSignal): Promise<Reply> {
    if (!this.live()) {
      return Promise.reject(new NoKernelError(NO_KERNEL));
    }
    if (signal?.aborted) return Promise.reject(new DOMException("cancelled", "AbortError"));
    const rid = `${this.#prefix}-${++this.#count}`;
    return new Promise<Reply>((resolve, reject) => {
      const stop = () => {
        if (!this.#waiting.delete(rid)) return;
        this.send({ kind: "cancel_request", rid });
        reject(new DOMException("cancelled", "AbortError"));
      };
      const settle = () => signal?.removeEventListener("abort", stop);
      this.#waiting.set(rid, {
        resolve: (reply) => {
          settle();
          resolve(reply);
        },
        reject: (error) => {
          settle();
          reject(error);
        },
      });
      signal?.addEventListener("abort", stop);
      this.send({ kind: "request", rid, method, params });
    });
  }

  /** Route a reply or an error; false when it answers somebody else's question. */
  receive(message: Record<string, unknown>, buffers: DataView[]): boolean {
    const rid = String(message.rid);
    const waiting = this.#waiting.get(rid);
    if (!waiting) return false;
    this.#waiting.delete(rid);
    if (message.kind === "reply") waiting.resolve({ result: message.result, buffers });
    else waiting.reject(new Error(String(message.message ?? "The kernel could not answer.")));
    return true;
  }

  /** Nobody is left to answer. */
  abandon(): void {
    this.#end(new NoKernelError(NO_KERNEL));
  }

  dispose(): void {
    this.#end(new DOMException("closed", "AbortError"));
  }

  #end(error: Error): void {
    const waiting = [...this.#waiting.values()];
    this.#waiting.clear();
    for (const { reject } of waiting) reject(error);
  }
}
