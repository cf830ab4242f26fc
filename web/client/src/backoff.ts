/** How long to wait before the next attempt. */

/** Bounds of the wait, in milliseconds. */
export interface BackoffOptions {
  /** Ceiling of the first wait. */
  min: number;
  /** Ceiling of every later wait. */
  max: number;
}

/**
 * Full jitter: a wait is anything from nothing to a ceiling that doubles, so that a crowd which lost its connections
 * together does not come back together.
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

  /** Starts from the beginning, after a connection that was of use. */
  reset(): void {
    this.#attempts = 0;
  }
}
