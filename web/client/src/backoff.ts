/** Exponential backoff with jitter. */

/** Bounds of the wait, in milliseconds. */
export interface BackoffOptions {
  /** The upper bound of the first wait. */
  min: number;
  /** The largest upper bound of a later wait. */
  max: number;
}

/**
 * Full jitter: each wait is random between zero and an upper bound that doubles, so that clients that lost their
 * connections at the same time do not reconnect at the same time.
 */
export class Backoff {
  readonly #options: BackoffOptions;
  readonly #random: () => number;
  #attempts = 0;

  constructor(options: BackoffOptions, random: () => number = Math.random) {
    this.#options = options;
    this.#random = random;
  }

  /** Returns the next wait, in milliseconds. */
  next(): number {
    const { min, max } = this.#options;
    const ceiling = Math.min(max, min * 2 ** Math.min(this.#attempts, 30));
    this.#attempts += 1;
    return this.#random() * ceiling;
  }

  /** Restarts with the first wait. Call it after a healthy connection. */
  reset(): void {
    this.#attempts = 0;
  }
}
