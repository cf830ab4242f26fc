/** Observes whether the page is visible and whether the network is available. */

/** The callbacks of a `Visibility`. */
export interface VisibilityEvents {
  /** The page has been hidden for the configured time. */
  hidden(): void;
  /** The page is visible again. */
  visible(): void;
  /** The network is available again. */
  online(): void;
}

/** Observes the page that the client runs in, if there is one. */
export class Visibility {
  readonly #stopped = new AbortController();
  #timer: ReturnType<typeof setTimeout> | undefined;
  #hidden = false;

  constructor(afterMs: number | undefined, events: VisibilityEvents) {
    const { signal } = this.#stopped;
    // Node has neither of them, and some runtimes have only one.
    if (typeof addEventListener === "function") addEventListener("online", () => events.online(), { signal });
    if (afterMs === undefined || typeof document === "undefined") return;
    const update = () => {
      clearTimeout(this.#timer);
      if (document.visibilityState === "hidden") {
        this.#timer = setTimeout(() => {
          this.#hidden = true;
          events.hidden();
        }, afterMs);
      } else if (this.#hidden) {
        this.#hidden = false;
        events.visible();
      }
    };
    document.addEventListener("visibilitychange", update, { signal });
    update();
  }

  /** Whether the page has been hidden for the configured time. */
  get isHidden(): boolean {
    return this.#hidden;
  }

  /** Stops observing. */
  stop(): void {
    clearTimeout(this.#timer);
    this.#stopped.abort();
    this.#hidden = false;
  }
}
