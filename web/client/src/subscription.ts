/** One subscriber to one topic. */

import { report } from "./emitter.js";
import type { Delivery } from "./events.js";
import { type Gap, Sequence, type Start } from "./sequence.js";

/** How a subscription starts, and whom it tells what. */
export interface SubscribeOptions {
  /** Start after the event with this number, as kept from an earlier run. */
  since?: number;
  /** Start with this many of the newest events, at most 1,000. */
  last?: number;
  /** Told of events that will not come. */
  onGap?: (gap: Gap) => void;
  /** Told when the server refuses the topic: it ends the subscription, unless the refusal is one that passes. */
  onError?: (error: Error) => void;
  /** Ends the subscription. */
  signal?: AbortSignal;
  /** Most events that wait for the iterator; past it the oldest are given up, and told as a gap. 10,000 unless given. */
  buffer?: number;
}

/** What a subscription needs of the client. */
export interface Host {
  replay(topic: string, from: number, to: number): void;
  leave(subscription: Subscription): void;
}

/**
 * A stream of a topic's events: every one, once, in order.
 *
 * It is either iterated over (once) or given a callback.
 */
export class Subscription<E = unknown> implements AsyncIterable<Delivery<E>> {
  /** The topic, in canonical spelling. */
  readonly topic: string;
  /** @internal */
  readonly sequence: Sequence;
  /** @internal */
  readonly start: Start;
  readonly #options: SubscribeOptions;
  readonly #host: Host;
  readonly #listener: ((delivery: Delivery<E>) => void) | undefined;
  #queue: Delivery<E>[] = [];
  /** Entries of the queue that are read already; taken off together, as one by one would copy the queue each time. */
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

  /** The number of the last event that was delivered: give it as `since` to go on from here another time. */
  get seq(): number | undefined {
    return this.sequence.seq;
  }

  /** Ends it; an iteration under way ends after what has arrived. */
  unsubscribe(): void {
    this.end();
  }

  /** @internal Ends it, with the error that an iteration then throws. */
  end(error?: Error): void {
    if (this.#ended) return;
    this.#ended = true;
    this.#error = error;
    this.#host.leave(this as Subscription);
    this.#wake?.();
  }

  /** @internal */
  tell(error: Error): boolean {
    const { onError } = this.#options;
    if (onError) report(() => onError(error));
    return onError !== undefined;
  }

  #deliver(delivery: Delivery<E>): void {
    if (this.#ended) return;
    const listener = this.#listener;
    if (listener) {
      report(() => listener(delivery));
      return;
    }
    this.#queue.push(delivery);
    const waiting = this.#queue.length - this.#read;
    const most = this.#options.buffer ?? 10_000;
    if (waiting > most) {
      const first = this.#queue[this.#read];
      this.#read += 1;
      if (first) this.#gap({ topic: this.topic, from: first.seq, to: first.seq, reason: "slow" });
    }
    this.#wake?.();
  }

  #gap(gap: Gap): void {
    const { onGap } = this.#options;
    if (onGap && !this.#ended) report(() => onGap(gap));
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
