/** A subscriber's position in a topic: drops duplicates, detects and fills holes, and restores the order. */

import { EVENTS_PER_REPLAY, type Frame } from "./protocol.js";

/** The most events that are held until the hole before them is filled. */
const MAX_HELD = 20_000;

/** How often a hole is requested before it becomes a gap. */
const MAX_REQUESTS = 3;

/** Events that cannot be delivered. */
export interface Gap {
  topic: string;
  /** The first missing sequence number. */
  from: number;
  /** The last missing sequence number. */
  to: number;
  /**
   * `expired`: the log no longer has the events. `lagging`: the server dropped them because the connection was too slow.
   * `lost`: the server does not have them, or did not send them again. `slow`: the program did not read its events fast
   * enough. `reset`: the server has another log, and the next event has the number `to + 1`, which can be less than
   * earlier numbers.
   */
  reason: "expired" | "lagging" | "lost" | "slow" | "reset";
}

/** Where a subscriber starts. */
export type Start =
  | { kind: "next" }
  | { kind: "snapshot" }
  /** After the event with the number `seq`, in the log with this id if it is known. */
  | { kind: "after"; seq: number; log?: string }
  /** With at most `count` of the newest events. Fewer events are not a gap. */
  | { kind: "last"; count: number };

/** The callbacks of a sequence. */
export interface Sink {
  event(seq: number, at: string, event: unknown): void;
  gap(gap: Gap): void;
  /** Requests the events from `from` to `to` again. */
  replay(from: number, to: number): void;
}

interface Held {
  seq: number;
  last: number;
  at: string;
  /** `undefined` for events that the server will not send. */
  events: unknown[] | undefined;
  reason: Gap["reason"];
}

/** The position of one subscriber in a topic. */
export class Sequence {
  /** The id of the log that the position belongs to, if it is known. */
  log: string | undefined;
  readonly #topic: string;
  readonly #start: Start;
  readonly #sink: Sink;
  /** The next number to deliver; `undefined` until the start is known. */
  #next: number | undefined;
  /** The newest number at the start, until the first event. Missing events up to it are not a gap. */
  #head: number | undefined;
  #held: Held[] = [];
  #heldEvents = 0;
  #hole: { from: number; to: number; requests: number } | undefined;

  constructor(topic: string, start: Start, sink: Sink) {
    this.#topic = topic;
    this.#start = start;
    this.#sink = sink;
    if (start.kind === "after") {
      this.#next = start.seq + 1;
      this.log = start.log;
    }
  }

  /** The number of the last event that was delivered or became a gap; `undefined` before the start. */
  get seq(): number | undefined {
    return this.#next === undefined ? undefined : this.#next - 1;
  }

  /** The missing events that have been requested. */
  get hole(): { from: number; to: number } | undefined {
    return this.#hole;
  }

  /** Starts the sequence: the newest number of the topic is `head`, and the server sends what follows. */
  begin(head: number): void {
    if (this.#next !== undefined || this.#start.kind === "snapshot") return;
    this.#next = head + 1;
    if (this.#start.kind === "last") {
      this.#next = Math.max(1, head - this.#start.count + 1);
      this.#head = head;
    }
  }

  /** Starts the sequence and requests the events up to `head`, which the server does not send by itself. */
  fetch(head: number): void {
    this.begin(head);
    if (this.#next !== undefined && this.#next <= head) this.#request(this.#next, head);
  }

  /**
   * Handles another log, whose newest number is `head`. The numbers of the old log say nothing about it, so the sequence
   * continues after `head`, or with the next snapshot.
   */
  reset(head: number): void {
    const seq = this.seq;
    if (seq === undefined) return;
    this.dropHeld();
    this.#head = undefined;
    this.#next = this.#start.kind === "snapshot" ? undefined : head + 1;
    const from = seq < head ? seq + 1 : Math.min(1, head);
    this.#sink.gap({ topic: this.#topic, from, to: head, reason: "reset" });
  }

  /** Whether events up to `head` are missing that nobody has requested. */
  lacks(head: number): boolean {
    return this.#next !== undefined && this.#next <= head && this.#hole === undefined;
  }

  /** Drops the held events, because the server will send them again. */
  dropHeld(): void {
    this.#held = [];
    this.#heldEvents = 0;
    this.#hole = undefined;
  }

  /** Processes a frame. */
  offer(frame: Frame): void {
    this.#next ??= this.#firstOf(frame);
    if (this.#next === undefined) return;
    const { seq, at, events } = frame;
    this.#accept({ seq, last: seq + events.length - 1, at, events, reason: "lost" });
  }

  /** Processes a gap: the server will not send these events. */
  skip(from: number, to: number, reason: Gap["reason"]): void {
    if (this.#next === undefined || to < this.#next) return;
    const inHole = this.#hole !== undefined && from <= this.#hole.to && to >= this.#hole.from;
    if (reason === "lagging" && !inHole) {
      // The server dropped them because the connection was too slow, but the log may have them.
      this.#request(this.#next, to);
      return;
    }
    this.#accept({ seq: from, last: to, at: "", events: undefined, reason });
  }

  /** Handles a replay that has not arrived in time. */
  replayOverdue(): void {
    const hole = this.#hole;
    if (!hole || this.#next === undefined) return;
    if (hole.requests < MAX_REQUESTS) {
      hole.requests += 1;
      this.#sink.replay(this.#next, hole.to);
      return;
    }
    this.#emitGap(hole.to, "lost");
    this.#drain();
  }

  #firstOf(frame: Frame): number | undefined {
    if (this.#start.kind !== "snapshot") return frame.seq;
    const index = frame.events.findIndex(
      (event) => typeof event === "object" && event !== null && "type" in event && event.type === "snapshot",
    );
    return index < 0 ? undefined : frame.seq + index;
  }

  #accept(piece: Held): void {
    const next = this.#next ?? piece.seq;
    if (piece.last < next) return;
    if (piece.seq > next) {
      if (this.#head !== undefined && this.#hole === undefined && piece.seq <= this.#head + 1) {
        this.#next = piece.seq;
      } else {
        this.#hold(piece);
        if (this.#hole === undefined) this.#drain();
        return;
      }
    }
    this.#deliver(piece);
    this.#drain();
  }

  #deliver(piece: Held): void {
    const next = this.#next ?? piece.seq;
    if (piece.events === undefined) {
      this.#emitGap(piece.last, piece.reason);
      return;
    }
    this.#head = undefined;
    for (let seq = Math.max(next, piece.seq); seq <= piece.last; seq += 1) {
      // Update the position first, because the callback may read it.
      this.#next = seq + 1;
      this.#sink.event(seq, piece.at, piece.events[seq - piece.seq]);
    }
  }

  #emitGap(to: number, reason: Gap["reason"]): void {
    const from = this.#next ?? to;
    this.#next = to + 1;
    const firstMissing = this.#head === undefined ? from : Math.max(from, this.#head + 1);
    if (firstMissing <= to) this.#sink.gap({ topic: this.#topic, from: firstMissing, to, reason });
  }

  #hold(piece: Held): void {
    if (this.#held.some((held) => held.seq <= piece.seq && held.last >= piece.last)) return;
    const index = this.#held.findIndex((held) => held.seq > piece.seq);
    this.#held.splice(index < 0 ? this.#held.length : index, 0, piece);
    this.#heldEvents += piece.events?.length ?? 0;
    if (this.#heldEvents > MAX_HELD) {
      const first = this.#held[0];
      if (first) this.#emitGap(first.seq - 1, "lost");
      this.#drain();
    }
  }

  #drain(): void {
    for (;;) {
      const next = this.#next ?? 0;
      if (this.#hole && next > this.#hole.to) this.#hole = undefined;
      const first = this.#held[0];
      if (!first) return;
      if (first.seq > next) {
        if (this.#hole === undefined) this.#request(next, first.seq - 1);
        return;
      }
      this.#held.shift();
      this.#heldEvents -= first.events?.length ?? 0;
      if (first.last >= next) this.#deliver(first);
    }
  }

  #request(from: number, to: number): void {
    const last = Math.min(to, from + EVENTS_PER_REPLAY - 1);
    this.#hole = { from, to: last, requests: 1 };
    this.#sink.replay(from, last);
  }
}
