/** A book, kept up to date. */

import type { Book as BookEvent } from "headwater-client";

/** Most levels of a side that are kept; the deepest are given up. */
const MAX_LEVELS = 500;

/** A level of a book. */
export interface Level {
  /** As the exchange wrote it. */
  price: string;
  size: number;
  /** This level's size and those of all better ones. */
  total: number;
}

/** The best levels of both sides, best first. */
export interface Ladder {
  bids: Level[];
  asks: Level[];
  /** The largest total, which the bars are measured against. */
  depth: number;
}

/** Both sides of a book. */
export class Book {
  readonly #bids = new Map<string, number>();
  readonly #asks = new Map<string, number>();

  /** Whether there is anything in it. */
  get isEmpty(): boolean {
    return this.#bids.size === 0 && this.#asks.size === 0;
  }

  /** Takes an event. */
  apply(event: BookEvent): void {
    if (event.type === "snapshot") {
      this.#bids.clear();
      this.#asks.clear();
      for (const [price, size] of event.bids) set(this.#bids, price, size);
      for (const [price, size] of event.asks) set(this.#asks, price, size);
      return;
    }
    for (const [side, price, size] of event.changes) {
      set(side === "buy" ? this.#bids : this.#asks, price, size);
    }
    prune(this.#bids, -1);
    prune(this.#asks, 1);
  }

  /** Returns the best `count` levels a side. */
  ladder(count: number): Ladder {
    const bids = best(this.#bids, -1, count);
    const asks = best(this.#asks, 1, count);
    return { bids, asks, depth: Math.max(bids.at(-1)?.total ?? 0, asks.at(-1)?.total ?? 0) };
  }
}

function set(side: Map<string, number>, price: string, size: string): void {
  // A price is spelled with more or fewer zeros in a snapshot than in an update.
  const key = String(Number(price));
  const value = Number(size);
  if (value > 0) side.set(key, value);
  else side.delete(key);
}

function sorted(side: Map<string, number>, direction: 1 | -1): [string, number][] {
  return [...side].sort(([a], [b]) => (Number(a) - Number(b)) * direction);
}

function prune(side: Map<string, number>, direction: 1 | -1): void {
  if (side.size <= MAX_LEVELS * 1.2) return;
  for (const [price] of sorted(side, direction).slice(MAX_LEVELS)) side.delete(price);
}

function best(side: Map<string, number>, direction: 1 | -1, count: number): Level[] {
  let total = 0;
  return sorted(side, direction)
    .slice(0, count)
    .map(([price, size]) => {
      total += size;
      return { price, size, total };
    });
}
