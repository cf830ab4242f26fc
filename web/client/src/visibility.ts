/** Whether anybody looks at the page, and whether there is a network. */

/** What happens then. */
export interface VisibilityEvents {
  /** The page has been hidden for long enough. */
  hidden(): void;
  /** The page is seen again. */
  seen(): void;
  /** The network is back. */
  online(): void;
}

/** Follows the page that the client runs in, if it runs in one. */
export class Visibility {
  readonly #stopped = new AbortController();
  #timer: ReturnType<typeof setTimeout> | undefined;
  #hidden = false;

  constructor(afterMs: number | undefined, events: VisibilityEvents) {
    const { signal } = this.#stopped;
    // Node has neither; some runtimes have only parts.
    if (typeof addEventListener === "function") addEventListener("online", () => events.online(), { signal });
    if (afterMs === undefined || typeof document === "undefined") return;
    const look = () => {
      clearTimeout(this.#timer);
      if (document.visibilityState === "hidden") {
        this.#timer = setTimeout(() => {
          this.#hidden = true;
          events.hidden();
        }, afterMs);
      } else if (this.#hidden) {
        this.#hidden = false;
        events.seen();
      }
    };
    document.addEventListener("visibilitychange", look, { signal });
    look();
  }

  /** Whether the page has been hidden for long enough. */
  get isHidden(): boolean {
    return this.#hidden;
  }

  /** Stops following. */
  stop(): void {
    clearTimeout(this.#timer);
    this.#stopped.abort();
    this.#hidden = false;
  }
}
