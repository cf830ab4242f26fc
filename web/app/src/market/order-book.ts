/** An order book, updated by the events of its topic. */

import type { BookEvent } from "headwater-client";

/** The most levels of a side that are kept. The deepest ones are dropped. */
const MAX_LEVELS = 500;

/** A price level. */
export interface Level {
  /** The price, normalized: without trailing zeros. */
  price: string;
  size: number;
  /** The size of this level and of all better levels. */
  total: number;
}

/** The best levels of both sides, best first. */
export interface BestLevels {
  bids: Level[];
  asks: Level[];
  /** The largest total, which is the full width of a bar. */
  depth: number;
}

/** Both sides of an order book. */
export class OrderBook {
  readonly #bids = new Map<string, number>();
  readonly #asks = new Map<string, number>();

  /** Whether the book has no level. */
  get isEmpty(): boolean {
    return this.#bids.size === 0 && this.#asks.size === 0;
  }

  /** Applies an event. */
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

  /** Returns the best `count` levels of each side. */
  best(count: number): BestLevels {
    const bids = bestOf(this.#bids, -1, count);
    const asks = bestOf(this.#asks, 1, count);
    return { bids, asks, depth: Math.max(bids.at(-1)?.total ?? 0, asks.at(-1)?.total ?? 0) };
  }
}

function set(side: Map<string, number>, price: string, size: string): void {
  // A snapshot and an update can write the same price with different trailing zeros.
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

function bestOf(side: Map<string, number>, direction: 1 | -1, count: number): Level[] {
  let total = 0;
  return sorted(side, direction)
    .slice(0, count)
    .map(([price, size]) => {
      total += size;
      return { price, size, total };
    });
}
