/** Counts the events that arrive and measures their delivery times. */

import { signal } from "@preact/signals";
import type { Frame } from "headwater-client";

/** The upper bounds of the histogram's bars, in milliseconds. The last bar has no bound. */
export const BOUNDS = [1, 2, 5, 10, 20, 50, 100, 200, 500, 1_000] as const;

/** The number of seconds that are shown. */
export const SECONDS = 60;

/** What arrived in one second. */
export interface Second {
  events: number;
  messages: number;
}

/** The counters of the connection. */
export class Meter {
  /** The last minute, oldest first. */
  readonly seconds = signal<readonly Second[]>(Array.from({ length: SECONDS }, () => ({ events: 0, messages: 0 })));
  /** The number of events by delivery time. */
  readonly histogram = signal<readonly number[]>(new Array(BOUNDS.length + 1).fill(0));
  /** The totals since the page was opened. */
  readonly total = signal({ events: 0, messages: 0, characters: 0 });
  /** How far the server's clock is ahead of the local clock, in milliseconds. */
  clockAhead = 0;
  #current: Second = { events: 0, messages: 0 };
  #characters = 0;
  #bars: number[] = new Array(BOUNDS.length + 1).fill(0);
  #samples: number[] = [];
  #liveFrom = 0;

  /** Excludes events that the server numbered before this call: they are history, so their age is not a delay. */
  expectBacklog(): void {
    this.#liveFrom = preciseNow();
  }

  /** Records a frame. */
  frame({ at, events }: Frame): void {
    const sent = Date.parse(at.slice(0, 23) + at.slice(26)) + Number(at.slice(23, 26)) / 1_000 - this.clockAhead;
    if (!(sent > this.#liveFrom)) return;
    const delay = Math.max(0, preciseNow() - sent);
    const bar = BOUNDS.findIndex((bound) => delay < bound);
    const index = bar < 0 ? BOUNDS.length : bar;
    this.#bars[index] = (this.#bars[index] ?? 0) + events.length;
    this.#samples.push(delay);
    if (this.#samples.length > 2_000) this.#samples.splice(0, 1_000);
  }

  /** Records a message. */
  message({ events, size }: { events: number; size: number }): void {
    this.#current.events += events;
    this.#current.messages += 1;
    this.#characters += size;
  }

  /** Ends the current second and updates the signals. */
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

  /** Returns the delivery time that a share of the latest frames stayed below, in milliseconds. */
  quantile(share: number): number | undefined {
    const sorted = [...this.#samples].sort((a, b) => a - b);
    return sorted[Math.min(sorted.length - 1, Math.floor(sorted.length * share))];
  }
}

/** Returns the current time in milliseconds, with fractions. */
function preciseNow(): number {
  return performance.timeOrigin + performance.now();
}
