/** What one subscriber has of a topic: duplicates are dropped, holes are noticed and filled, order is kept. */

import { EVENTS_PER_REPLAY, type Frame } from "./protocol.js";

/** Most events that wait for a hole before them to be filled. */
const MAX_HELD = 20_000;

/** How often a hole is asked for before it is given up. */
const MAX_ASKED = 3;

/** Events that will not come. */
export interface Gap {
  topic: string;
  /** The first number that is missing. */
  from: number;
  /** The last number that is missing. */
  to: number;
  /**
   * `expired`: no longer in the log. `lagging`: given up, because somebody was too slow. `lost`: the server did not
   * send them again. `slow`: this program does not read its events. `restarted`: the server's log is another one.
   */
  reason: "expired" | "lagging" | "lost" | "slow" | "restarted";
}

/** Where a subscriber starts. */
export type Start =
  | { kind: "next" }
  | { kind: "snapshot" }
  | { kind: "after"; seq: number }
  /** With at most `count` of the newest events; fewer are no gap. */
  | { kind: "last"; count: number };

/** What a sequence tells of. */
export interface Sink {
  event(seq: number, at: string, event: unknown): void;
  gap(gap: Gap): void;
  /** The events `from..=to` are wanted again. */
  replay(from: number, to: number): void;
}

interface Held {
  seq: number;
  last: number;
  at: string;
  /** None for numbers that the server has said will not come. */
  events: unknown[] | undefined;
  reason: Gap["reason"];
}

/** One subscriber's place in a topic. */
export class Sequence {
  readonly #topic: string;
  readonly #start: Start;
  readonly #sink: Sink;
  /** The number that is delivered next; none before the start is known. */
  #next: number | undefined;
  /** Until the first event: the newest number at the start. What is missing up to it was never promised. */
  #head: number | undefined;
  #held: Held[] = [];
  #heldEvents = 0;
  #hole: { from: number; to: number; asked: number } | undefined;

  constructor(topic: string, start: Start, sink: Sink) {
    this.#topic = topic;
    this.#start = start;
    this.#sink = sink;
    if (start.kind === "after") this.#next = start.seq + 1;
  }

  /** The number of the last event that was delivered or given up; none before the start. */
  get seq(): number | undefined {
    return this.#next === undefined ? undefined : this.#next - 1;
  }

  /** What is missing at the moment, and has been asked for. */
  get hole(): { from: number; to: number } | undefined {
    return this.#hole;
  }

  /** The topic's newest number is `head`, and what follows it will be sent. */
  begin(head: number): void {
    if (this.#next !== undefined || this.#start.kind === "snapshot") return;
    this.#next = head + 1;
    if (this.#start.kind === "last") {
      this.#next = Math.max(1, head - this.#start.count + 1);
      this.#head = head;
    }
  }

  /** Asks for what lies between the start and `head`, where nobody sends it unasked. */
  fetch(head: number): void {
    this.begin(head);
    if (this.#next !== undefined && this.#next <= head) this.#ask(this.#next, head);
  }

  /** The server's log ends before what we have: it is another log, which goes on behind `head`. */
  restart(head: number): void {
    if (this.#next === undefined || this.#next <= head + 1) return;
    this.#sink.gap({ topic: this.#topic, from: head + 1, to: this.#next - 1, reason: "restarted" });
    this.#next = head + 1;
    this.forget();
  }

  /** Drops what waits for a hole: it comes again. */
  forget(): void {
    this.#held = [];
    this.#heldEvents = 0;
    this.#hole = undefined;
  }

  /** Takes a frame. */
  offer(frame: Frame): void {
    this.#next ??= this.#firstOf(frame);
    if (this.#next === undefined) return;
    const { seq, at, events } = frame;
    this.#take({ seq, last: seq + events.length - 1, at, events, reason: "lost" });
  }

  /** Takes the server's word that events will not come. */
  miss(from: number, to: number, reason: Gap["reason"]): void {
    if (this.#next === undefined || to < this.#next) return;
    const inHole = this.#hole !== undefined && from <= this.#hole.to && to >= this.#hole.from;
    if (reason === "lagging" && !inHole) {
      // They were too many for us then, but the log may have them.
      this.#ask(this.#next, to);
      return;
    }
    this.#take({ seq: from, last: to, at: "", events: undefined, reason });
  }

  /** A replay has not come in time. */
  overdue(): void {
    const hole = this.#hole;
    if (!hole || this.#next === undefined) return;
    if (hole.asked < MAX_ASKED) {
      hole.asked += 1;
      this.#sink.replay(this.#next, hole.to);
      return;
    }
    this.#giveUp(hole.to, "lost");
    this.#drain();
  }

  #firstOf(frame: Frame): number | undefined {
    if (this.#start.kind !== "snapshot") return frame.seq;
    const index = frame.events.findIndex(
      (event) => typeof event === "object" && event !== null && "type" in event && event.type === "snapshot",
    );
    return index < 0 ? undefined : frame.seq + index;
  }

  #take(piece: Held): void {
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
      this.#giveUp(piece.last, piece.reason);
      return;
    }
    this.#head = undefined;
    for (let seq = Math.max(next, piece.seq); seq <= piece.last; seq += 1) {
      // Before the call: the subscriber may ask where it stands.
      this.#next = seq + 1;
      this.#sink.event(seq, piece.at, piece.events[seq - piece.seq]);
    }
  }

  #giveUp(to: number, reason: Gap["reason"]): void {
    const from = this.#next ?? to;
    this.#next = to + 1;
    const promised = this.#head === undefined ? from : Math.max(from, this.#head + 1);
    if (promised <= to) this.#sink.gap({ topic: this.#topic, from: promised, to, reason });
  }

  #hold(piece: Held): void {
    if (this.#held.some((held) => held.seq <= piece.seq && held.last >= piece.last)) return;
    const index = this.#held.findIndex((held) => held.seq > piece.seq);
    this.#held.splice(index < 0 ? this.#held.length : index, 0, piece);
    this.#heldEvents += piece.events?.length ?? 0;
    if (this.#heldEvents > MAX_HELD) {
      const first = this.#held[0];
      if (first) this.#giveUp(first.seq - 1, "lost");
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
        if (this.#hole === undefined) this.#ask(next, first.seq - 1);
        return;
      }
      this.#held.shift();
      this.#heldEvents -= first.events?.length ?? 0;
      if (first.last >= next) this.#deliver(first);
    }
  }

  #ask(from: number, to: number): void {
    const last = Math.min(to, from + EVENTS_PER_REPLAY - 1);
    this.#hole = { from, to: last, asked: 1 };
    this.#sink.replay(from, last);
  }
}
