/** All subscribers of this client to one topic, which share one subscription on the wire. */

import type { Frame } from "./protocol.js";
import type { Gap } from "./sequence.js";
import type { Subscription } from "./subscription.js";

/**
 * Where a topic stands with the server. A request about it is sent when the one before has been answered, because the
 * gateway does not keep their order.
 */
export type Wire = "out" | "joining" | "in" | "leaving";

/** A topic and who reads it. */
export class Room {
  readonly topic: string;
  readonly subscribers = new Set<Subscription>();
  wire: Wire = "out";
  /** The newest number that is known. */
  #head = 0;
  /** Who came while the server was being asked, so that what they start with was not asked for. */
  readonly #late = new Set<Subscription>();
  #wantsSnapshot = false;
  #overdue: ReturnType<typeof setTimeout> | undefined;

  constructor(topic: string) {
    this.topic = topic;
  }

  /** Whether nobody reads it. */
  get isEmpty(): boolean {
    return this.subscribers.size === 0;
  }

  /** What the server has to be told. */
  get wish(): "join" | "leave" | undefined {
    if (this.wire === "in" && this.isEmpty) return "leave";
    if (this.isEmpty) return undefined;
    return this.wire === "out" || (this.wire === "in" && this.#wantsSnapshot) ? "join" : undefined;
  }

  /** Where the server is to start: at the earliest place of those who have a place. */
  get since(): number | undefined {
    if (this.#lacksSnapshot()) return undefined;
    const places = [...this.subscribers].map(({ sequence }) => sequence.seq).filter((seq) => seq !== undefined);
    return places.length > 0 ? Math.min(...places) : undefined;
  }

  /** Adds a subscriber. */
  enter(subscription: Subscription): void {
    this.subscribers.add(subscription);
    if (this.wire === "joining") this.#late.add(subscription);
    if (this.wire === "in") this.#start(subscription);
  }

  /** Removes a subscriber. */
  exit(subscription: Subscription): void {
    this.subscribers.delete(subscription);
    this.#late.delete(subscription);
  }

  /** Notes that the server is asked for the topic, and returns `last` of the request; 0 for none. */
  ask(): number {
    this.wire = "joining";
    this.#wantsSnapshot = false;
    if (this.since !== undefined || this.#lacksSnapshot()) return 0;
    const starts = [...this.subscribers].map(({ start }) => (start.kind === "last" ? start.count : 0));
    return Math.max(0, ...starts);
  }

  /** The server sends the topic, whose newest number is `head`. */
  welcome(head: number, recovered: boolean | undefined): void {
    const resumed = this.since !== undefined;
    this.wire = "in";
    this.#head = recovered === false ? head : Math.max(this.#head, head);
    for (const subscription of this.subscribers) {
      const { sequence } = subscription;
      if (recovered === false) sequence.restart(head);
      const unasked = this.#late.has(subscription) || (resumed && sequence.seq === undefined);
      if (unasked) this.#start(subscription);
      else sequence.begin(head);
    }
    this.#late.clear();
  }

  /** Hands a frame to everybody. */
  offer(frame: Frame): void {
    this.#head = Math.max(this.#head, frame.seq + frame.events.length - 1);
    for (const { sequence } of [...this.subscribers]) sequence.offer(frame);
  }

  /** The server says that events will not come. */
  miss(from: number, to: number, reason: Gap["reason"]): void {
    this.#head = Math.max(this.#head, to);
    for (const { sequence } of [...this.subscribers]) sequence.miss(from, to, reason);
  }

  /** The link is gone: what comes on the next one starts after what everybody has. */
  disconnect(): void {
    this.wire = "out";
    this.#late.clear();
    this.stop();
    for (const { sequence } of this.subscribers) sequence.forget();
  }

  /** Sees to it that a replay which does not come is asked for again. */
  awaitReplay(ms: number): void {
    if (this.#overdue !== undefined) return;
    const places = new Map([...this.subscribers].map(({ sequence }) => [sequence, sequence.seq]));
    this.#overdue = setTimeout(() => {
      this.#overdue = undefined;
      const waiting = [...this.subscribers].filter(({ sequence }) => sequence.hole);
      if (waiting.length > 0) this.awaitReplay(ms);
      for (const { sequence } of waiting) {
        if (places.get(sequence) === sequence.seq) sequence.overdue();
      }
    }, ms);
  }

  /** Ends its timer. */
  stop(): void {
    clearTimeout(this.#overdue);
    this.#overdue = undefined;
  }

  /** Starts a subscriber of a topic that the server sends already. */
  #start({ start, sequence }: Subscription): void {
    if (start.kind === "snapshot") this.#wantsSnapshot ||= sequence.seq === undefined;
    else sequence.fetch(this.#head);
  }

  #lacksSnapshot(): boolean {
    return [...this.subscribers].some(({ start, sequence }) => start.kind === "snapshot" && sequence.seq === undefined);
  }
}
