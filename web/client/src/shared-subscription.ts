/** All subscribers of one topic, which share one subscription on the server. */

import type { Frame } from "./protocol.js";
import type { Gap } from "./sequence.js";
import type { Subscription } from "./subscription.js";

/**
 * The state of a topic on the server. The next request about a topic is sent after the previous one was answered,
 * because the gateway does not preserve the order of messages.
 */
export type ServerState = "unsubscribed" | "subscribing" | "subscribed" | "unsubscribing";

/** A topic and its subscribers. */
export class SharedSubscription {
  readonly topic: string;
  readonly subscribers = new Set<Subscription>();
  serverState: ServerState = "unsubscribed";
  /** The newest known sequence number. */
  #head = 0;
  /** Subscribers that were added while a request was pending, so the request did not include their start. */
  readonly #late = new Set<Subscription>();
  #needsSnapshot = false;
  #replayTimer: ReturnType<typeof setTimeout> | undefined;

  constructor(topic: string) {
    this.topic = topic;
  }

  /** Whether the topic has no subscriber. */
  get isEmpty(): boolean {
    return this.subscribers.size === 0;
  }

  /** The request that the topic needs. */
  get neededRequest(): "subscribe" | "unsubscribe" | undefined {
    if (this.serverState === "subscribed" && this.isEmpty) return "unsubscribe";
    if (this.isEmpty) return undefined;
    const needsSubscribe =
      this.serverState === "unsubscribed" || (this.serverState === "subscribed" && this.#needsSnapshot);
    return needsSubscribe ? "subscribe" : undefined;
  }

  /** The earliest position of the subscribers, after which the server resumes. */
  get since(): number | undefined {
    if (this.#lacksSnapshot()) return undefined;
    const positions = [...this.subscribers].map(({ sequence }) => sequence.seq).filter((seq) => seq !== undefined);
    return positions.length > 0 ? Math.min(...positions) : undefined;
  }

  /** Adds a subscriber. */
  add(subscription: Subscription): void {
    this.subscribers.add(subscription);
    if (this.serverState === "subscribing") this.#late.add(subscription);
    if (this.serverState === "subscribed") this.#start(subscription);
  }

  /** Removes a subscriber. */
  remove(subscription: Subscription): void {
    this.subscribers.delete(subscription);
    this.#late.delete(subscription);
  }

  /** Records that a `subscribe` is sent, and returns its `last`; 0 for none. */
  beginSubscribe(): number {
    this.serverState = "subscribing";
    this.#needsSnapshot = false;
    if (this.since !== undefined || this.#lacksSnapshot()) return 0;
    const counts = [...this.subscribers].map(({ start }) => (start.kind === "last" ? start.count : 0));
    return Math.max(0, ...counts);
  }

  /** Handles the response to a `subscribe`: the newest number of the topic is `head`. */
  subscribed(head: number, recovered: boolean | undefined): void {
    const resumed = this.since !== undefined;
    this.serverState = "subscribed";
    this.#head = recovered === false ? head : Math.max(this.#head, head);
    for (const subscription of this.subscribers) {
      const { sequence } = subscription;
      if (recovered === false) sequence.restart(head);
      const notRequested = this.#late.has(subscription) || (resumed && sequence.seq === undefined);
      if (notRequested) this.#start(subscription);
      else sequence.begin(head);
    }
    this.#late.clear();
  }

  /** Passes a frame to every subscriber. */
  offer(frame: Frame): void {
    this.#head = Math.max(this.#head, frame.seq + frame.events.length - 1);
    for (const { sequence } of [...this.subscribers]) sequence.offer(frame);
  }

  /** Passes a gap to every subscriber. */
  skip(from: number, to: number, reason: Gap["reason"]): void {
    this.#head = Math.max(this.#head, to);
    for (const { sequence } of [...this.subscribers]) sequence.skip(from, to, reason);
  }

  /** Handles the end of the connection: the next connection resumes at the positions of the subscribers. */
  disconnect(): void {
    this.serverState = "unsubscribed";
    this.#late.clear();
    this.stop();
    for (const { sequence } of this.subscribers) sequence.dropHeld();
  }

  /** Starts a timer that repeats replays which do not arrive within `ms` milliseconds. */
  awaitReplay(ms: number): void {
    if (this.#replayTimer !== undefined) return;
    const positions = new Map([...this.subscribers].map(({ sequence }) => [sequence, sequence.seq]));
    this.#replayTimer = setTimeout(() => {
      this.#replayTimer = undefined;
      const waiting = [...this.subscribers].filter(({ sequence }) => sequence.hole);
      if (waiting.length > 0) this.awaitReplay(ms);
      for (const { sequence } of waiting) {
        if (positions.get(sequence) === sequence.seq) sequence.replayOverdue();
      }
    }, ms);
  }

  /** Stops the timer. */
  stop(): void {
    clearTimeout(this.#replayTimer);
    this.#replayTimer = undefined;
  }

  /** Starts a subscriber of a topic that the server already sends. */
  #start({ start, sequence }: Subscription): void {
    if (start.kind === "snapshot") this.#needsSnapshot ||= sequence.seq === undefined;
    else sequence.fetch(this.#head);
  }

  #lacksSnapshot(): boolean {
    return [...this.subscribers].some(({ start, sequence }) => start.kind === "snapshot" && sequence.seq === undefined);
  }
}
