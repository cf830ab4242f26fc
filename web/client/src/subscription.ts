/** One subscriber of one topic. */

import { callSafely } from "./emitter.js";
import type { Delivery } from "./events.js";
import { type Gap, Sequence, type Start } from "./sequence.js";

/** The settings of a subscription. */
export interface SubscribeOptions {
  /** Starts after the event with this sequence number, such as one saved by an earlier run. */
  since?: number;
  /** The id of the log that `since` belongs to. In another log, the subscription starts with the next event. */
  log?: string;
  /** Starts with this many of the newest events, at most 1,000. */
  last?: number;
  /** Called for events that cannot be delivered. */
  onGap?: (gap: Gap) => void;
  /** Called when the server rejects the topic, which ends the subscription. */
  onError?: (error: Error) => void;
  /** Ends the subscription. */
  signal?: AbortSignal;
  /** The most events pending for the iterator, by default 10,000. Beyond it the oldest are dropped, with a gap. */
  buffer?: number;
}

/** The functions of the client that a subscription uses. */
export interface Host {
  replay(topic: string, from: number, to: number): void;
  leave(subscription: Subscription): void;
}

/**
 * A stream of the events of a topic. Every event is delivered once and in order.
 *
 * A subscription is either iterated over, once, or it has a callback.
 */
export class Subscription<E = unknown> implements AsyncIterable<Delivery<E>> {
  /** The topic, in canonical form. */
  readonly topic: string;
  /** @internal */
  readonly sequence: Sequence;
  /** @internal */
  readonly start: Start;
  readonly #options: SubscribeOptions;
  readonly #host: Host;
  readonly #listener: ((delivery: Delivery<E>) => void) | undefined;
  #queue: Delivery<E>[] = [];
  /** The number of queue entries that were read. They are removed in batches, because each removal copies the queue. */
  #read = 0;
  #wake: (() => void) | undefined;
  #ended = false;
  #error: Error | undefined;

  /** @internal */
  constructor(
    host: Host,
    topic: string,
    start: Start,
    options: SubscribeOptions,
    listener?: (delivery: Delivery<E>) => void,
  ) {
    this.#host = host;
    this.topic = topic;
    this.start = start;
    this.#options = options;
    this.#listener = listener;
    this.sequence = new Sequence(topic, start, {
      event: (seq, at, event) => this.#deliver({ topic, seq, at, event: event as E }),
      gap: (gap) => this.#gap(gap),
      replay: (from, to) => host.replay(topic, from, to),
    });
    const { signal } = options;
    if (signal?.aborted) queueMicrotask(() => this.unsubscribe());
    signal?.addEventListener("abort", () => this.unsubscribe(), { once: true });
  }

  /** The sequence number of the last delivered event. Pass it as `since` to resume later. */
  get seq(): number | undefined {
    return this.sequence.seq;
  }

  /** The id of the log that `seq` belongs to. Pass it as `log` to resume later. */
  get log(): string | undefined {
    return this.sequence.log;
  }

  /** Ends the subscription. An iteration ends after the events that have arrived. */
  unsubscribe(): void {
    this.end();
  }

  /** @internal Ends the subscription. With an error, an iteration throws it. */
  end(error?: Error): void {
    if (this.#ended) return;
    this.#ended = true;
    this.#error = error;
    this.#host.leave(this as Subscription);
    this.#wake?.();
  }

  /** @internal Calls `onError`. Returns `false` if there is none. */
  reportError(error: Error): boolean {
    const { onError } = this.#options;
    if (onError) callSafely(() => onError(error));
    return onError !== undefined;
  }

  #deliver(delivery: Delivery<E>): void {
    if (this.#ended) return;
    const listener = this.#listener;
    if (listener) {
      callSafely(() => listener(delivery));
      return;
    }
    this.#queue.push(delivery);
    const pending = this.#queue.length - this.#read;
    const limit = this.#options.buffer ?? 10_000;
    if (pending > limit) {
      const first = this.#queue[this.#read];
      this.#read += 1;
      if (first) this.#gap({ topic: this.topic, from: first.seq, to: first.seq, reason: "slow" });
    }
    this.#wake?.();
  }

  #gap(gap: Gap): void {
    const { onGap } = this.#options;
    if (onGap && !this.#ended) callSafely(() => onGap(gap));
  }

  /** Iterates over the events. Leaving the loop ends the subscription. */
  async *[Symbol.asyncIterator](): AsyncGenerator<Delivery<E>, void, undefined> {
    if (this.#listener) throw new TypeError("a subscription with a callback cannot be iterated over");
    try {
      for (;;) {
        const delivery = this.#queue[this.#read];
        if (delivery) {
          this.#read += 1;
          if (this.#read >= 1_000 || this.#read === this.#queue.length) {
            this.#queue = this.#queue.slice(this.#read);
            this.#read = 0;
          }
          yield delivery;
        } else if (this.#ended) {
          if (this.#error) throw this.#error;
          return;
        } else {
          await new Promise<void>((resolve) => {
            this.#wake = resolve;
          });
          this.#wake = undefined;
        }
      }
    } finally {
      this.unsubscribe();
    }
  }
}
