/** Counts what arrives, and how long it took. */

import { signal } from "@preact/signals";
import type { Frame } from "headwater-client";

/** Upper bounds of the histogram's bars, in milliseconds; the last bar has none. */
export const BOUNDS = [1, 2, 5, 10, 20, 50, 100, 200, 500, 1_000] as const;

/** Seconds that are shown. */
export const SECONDS = 60;

/** What arrived in a second. */
export interface Second {
  events: number;
  messages: number;
}

/** Counters of the connection. */
export class Meter {
  /** The last minute, oldest first. */
  readonly seconds = signal<readonly Second[]>(Array.from({ length: SECONDS }, () => ({ events: 0, messages: 0 })));
  /** Events by how long they were on their way. */
  readonly histogram = signal<readonly number[]>(new Array(BOUNDS.length + 1).fill(0));
  /** Since the page was opened. */
  readonly total = signal({ events: 0, messages: 0, characters: 0 });
  /** How far the server's clock is ahead of ours, in milliseconds. */
  clockAhead = 0;
  #current: Second = { events: 0, messages: 0 };
  #characters = 0;
  #bars: number[] = new Array(BOUNDS.length + 1).fill(0);
  #samples: number[] = [];
  #liveFrom = 0;

  /** What was numbered before now is history, and says nothing about delays. */
  expectBacklog(): void {
    this.#liveFrom = precise();
  }

  /** Notes a frame. */
  frame({ at, events }: Frame): void {
    const sent = Date.parse(at.slice(0, 23) + at.slice(26)) + Number(at.slice(23, 26)) / 1_000 - this.clockAhead;
    if (!(sent > this.#liveFrom)) return;
    const late = Math.max(0, precise() - sent);
    const bar = BOUNDS.findIndex((bound) => late < bound);
    const index = bar < 0 ? BOUNDS.length : bar;
    this.#bars[index] = (this.#bars[index] ?? 0) + events.length;
    this.#samples.push(late);
    if (this.#samples.length > 2_000) this.#samples.splice(0, 1_000);
  }

  /** Notes a message. */
  message({ events, size }: { events: number; size: number }): void {
    this.#current.events += events;
    this.#current.messages += 1;
    this.#characters += size;
  }

  /** A second has passed. */
  second(): void {
    const { events, messages } = this.#current;
    this.seconds.value = [...this.seconds.value.slice(1), this.#current];
    this.#current = { events: 0, messages: 0 };
    const total = this.total.value;
    this.total.value = {
      events: total.events + events,
      messages: total.messages + messages,
      characters: this.#characters,
    };
    this.histogram.value = [...this.#bars];
  }

  /** The delay that a share of the latest frames stayed under, in milliseconds. */
  quantile(share: number): number | undefined {
    const sorted = [...this.#samples].sort((a, b) => a - b);
    return sorted[Math.min(sorted.length - 1, Math.floor(sorted.length * share))];
  }
}

/** The time in milliseconds, with fractions. */
function precise(): number {
  return performance.timeOrigin + performance.now();
}
