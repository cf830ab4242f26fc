/** All subscribers of one topic, which share one subscription on the server. */

import type { Frame } from "./protocol.js";
import type { Gap, Sequence } from "./sequence.js";
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
  /** When the last event arrived, or when the topic was added. */
  quietSince = Date.now();
  /** The newest known sequence number. */
  #head = 0;
  /** Subscribers that were added while a request was pending, so the request did not include their start. */
  readonly #late = new Set<Subscription>();
  #needsSnapshot = false;
  /** The log and the positions in the last `subscribe`. */
  #requested: { log: string | undefined; positions: Map<Sequence, number> } | undefined;
  /** The newest number at which the last `subscribe` reset the positions. */
  #resetAt: number | undefined;
  /** The id of the log of the server. */
  #log: string | undefined;
  #tailTimer: ReturnType<typeof setTimeout> | undefined;
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

  /** The log that the positions of the subscribers belong to. */
  get log(): string | undefined {
    for (const { sequence } of this.subscribers) if (sequence.log !== undefined) return sequence.log;
    return undefined;
  }

  /** The earliest position of the subscribers in `log`, after which the server resumes. */
  get since(): number | undefined {
    const positions = [...this.#positions().values()];
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
    this.#resetAt = undefined;
    this.#requested = { log: this.log, positions: this.#positions() };
    if (this.since !== undefined || this.#lacksSnapshot()) return 0;
    const counts = [...this.subscribers].map(({ start }) => (start.kind === "last" ? start.count : 0));
    return Math.max(0, ...counts);
  }

  /** Handles the response to a `subscribe`: the newest number of the topic in `log` is `head`. */
  subscribed(head: number, log: string): void {
    const resumed = this.since !== undefined;
    const { log: requestedLog = log, positions } = this.#requested ?? {};
    this.serverState = "subscribed";
    this.#head = this.#log === undefined || this.#log === log ? Math.max(this.#head, head) : head;
    this.#log = log;
    for (const subscription of this.subscribers) {
      const { sequence } = subscription;
      const requested = positions?.get(sequence);
      // No number of the same log is above its newest number.
      const isOther = requested !== undefined && (requestedLog !== log || requested > head);
      if (isOther) this.#reset(subscription, head);
      else this.#enter(subscription);
      const notRequested = this.#late.has(subscription) || (resumed && sequence.seq === undefined);
      if (notRequested) this.#start(subscription);
      else sequence.begin(head);
    }
    this.#late.clear();
  }

  /** Passes a frame to every subscriber. */
  offer(frame: Frame): void {
    this.quietSince = Date.now();
    this.#head = Math.max(this.#head, frame.seq + frame.events.length - 1);
    for (const { sequence } of [...this.subscribers]) sequence.offer(frame);
  }

  /** Passes a gap to every subscriber. */
  skip(from: number, to: number, reason: Gap["reason"]): void {
    if (reason === "reset") {
      // The response to the `subscribe` has usually reported it already.
      if (this.#resetAt === to) return;
      for (const subscription of [...this.subscribers]) this.#reset(subscription, to);
      return;
    }
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

  /**
   * Compares the newest number on the server with what has arrived. If nothing arrives for `ms` milliseconds, the missing
   * events are requested: no later event would reveal that they are missing.
   */
  announce(head: number, ms: number): void {
    if (this.serverState !== "subscribed") return;
    this.#head = Math.max(this.#head, head);
    if (this.#tailTimer !== undefined) return;
    const behind = [...this.subscribers].filter(({ sequence }) => sequence.lacks(head));
    if (behind.length === 0) return;
    const positions = new Map(behind.map(({ sequence }) => [sequence, sequence.seq]));
    this.#tailTimer = setTimeout(() => {
      this.#tailTimer = undefined;
      for (const { sequence } of [...this.subscribers]) {
        if (sequence.lacks(head) && positions.get(sequence) === sequence.seq) sequence.fetch(head);
      }
    }, ms);
  }

  /** Stops the timers. */
  stop(): void {
    clearTimeout(this.#replayTimer);
    clearTimeout(this.#tailTimer);
    this.#replayTimer = undefined;
    this.#tailTimer = undefined;
  }

  /** Starts a subscriber of a topic that the server already sends. */
  #start(subscription: Subscription): void {
    const { start, sequence } = subscription;
    this.#enter(subscription);
    if (start.kind === "snapshot") this.#needsSnapshot ||= sequence.seq === undefined;
    else sequence.fetch(this.#head);
  }

  /** Continues in the log of the server. A position in another log is void. */
  #enter(subscription: Subscription): void {
    const { sequence } = subscription;
    if (sequence.log !== undefined && this.#log !== undefined && sequence.log !== this.#log) {
      this.#reset(subscription, this.#head);
    }
    sequence.log = this.#log ?? sequence.log;
  }

  #reset({ start, sequence }: Subscription, head: number): void {
    this.#resetAt = head;
    this.#head = head;
    sequence.log = this.#log;
    sequence.reset(head);
    if (start.kind === "snapshot") this.#needsSnapshot = true;
  }

  /** The positions from which the server can resume. */
  #positions(): Map<Sequence, number> {
    const positions = new Map<Sequence, number>();
    if (this.#lacksSnapshot()) return positions;
    for (const { sequence } of this.subscribers) {
      const { log, seq } = sequence;
      if (seq !== undefined && (log === undefined || log === this.log)) positions.set(sequence, seq);
    }
    return positions;
  }

  #lacksSnapshot(): boolean {
    return [...this.subscribers].some(({ start, sequence }) => start.kind === "snapshot" && sequence.seq === undefined);
  }
}
