/** The pairs on the page and their tickers. */

import { computed, type Signal, signal } from "@preact/signals";
import type { Ticker } from "headwater-client";
import { decimalsOf } from "../format";
import { atMostEvery } from "../paint";
import { isStrings, persisted } from "../persisted";
import { address } from "../router";
import { follow, rest } from "../session";

/** The pairs of a first visit. */
const DEFAULT = ["BTC-USD", "ETH-USD", "SOL-USD"];

/** The number of points of a sparkline. */
const POINTS = 60;

/** The shortest time between two updates of a price, in milliseconds. */
const SHOW_EVERY_MS = 125;

/** The shortest time between two updates of a sparkline, in milliseconds. */
const DRAW_EVERY_MS = 1_000;

const PAIR = /^[A-Z0-9]{1,20}-[A-Z0-9]{1,20}$/;

/** The values that a tile shows. */
export interface Quote {
  ticker: Ticker;
  price: number;
  /** The change in 24 hours, as a ratio; `undefined` if there was no price 24 hours ago. */
  change: number | undefined;
  /** The direction of the last price change. */
  direction: "up" | "down" | undefined;
}

/** A pair on the page. */
export class Pair {
  readonly quote = signal<Quote | undefined>(undefined);
  readonly points = signal<readonly number[]>([]);
  readonly error = signal<Error | undefined>(undefined);
  readonly running = signal(false);
  /** The most decimals that a price has had, so that the width of the number stays the same. */
  decimals = 2;
  #latest: Quote | undefined;
  #points: number[] = [];
  #stop: (() => void) | undefined;
  readonly #show = atMostEvery(SHOW_EVERY_MS, () => {
    this.quote.value = this.#latest;
  });
  readonly #draw = atMostEvery(DRAW_EVERY_MS, () => {
    this.points.value = this.#points.slice();
  });

  constructor(readonly id: string) {}

  /** Starts the ticker. */
  start(): void {
    if (this.#stop) return;
    this.error.value = undefined;
    this.running.value = true;
    const onError = (error: Error) => {
      this.error.value = error;
      this.stop();
    };
    this.#stop = follow(`coinbase/ticker/${this.id}`, { last: POINTS, onError }, ({ event }) => this.#update(event));
  }

  /** Stops the ticker. The last price stays. */
  stop(): void {
    this.#stop?.();
    this.#stop = undefined;
    this.running.value = false;
  }

  #update(ticker: Ticker): void {
    const price = Number(ticker.price);
    const open = Number(ticker.open_24h);
    if (!Number.isFinite(price)) return;
    const previous = this.#latest?.price;
    this.decimals = Math.min(8, Math.max(this.decimals, decimalsOf(ticker.price)));
    const direction =
      previous === undefined || previous === price ? this.#latest?.direction : price > previous ? "up" : "down";
    this.#latest = { ticker, price, change: open > 0 ? price / open - 1 : undefined, direction };
    this.#points.push(price);
    if (this.#points.length > POINTS) this.#points.shift();
    this.#show();
    if (this.points.value.length === 0) this.points.value = this.#points.slice();
    else this.#draw();
  }
}

const linked = (address.value.searchParams.get("pairs") ?? "").split(",").filter((id) => PAIR.test(id));
const names = persisted<string[]>("pairs", DEFAULT, isStrings);
if (linked.length > 0) names.value = linked;

const known = new Map<string, Pair>();

/** The pairs on the page, in the reader's order. */
export const pairs = computed(() => names.value.map(pairOf));

/** All pairs of the exchange; `undefined` until they are loaded. */
export const catalogue: Signal<readonly string[] | undefined> = signal(undefined);

function pairOf(id: string): Pair {
  const pair = known.get(id) ?? new Pair(id);
  known.set(id, pair);
  return pair;
}

/** Starts the tickers of all pairs on the page. */
export function startPairs(): void {
  for (const pair of pairs.value) pair.start();
  void loadCatalogue();
}

/** Returns whether a string has the form of a pair. */
export function isPair(text: string): boolean {
  return PAIR.test(text);
}

/** Adds a pair to the page and starts its ticker. */
export function add(id: string): void {
  if (!names.value.includes(id)) names.value = [...names.value, id];
  pairOf(id).start();
}

/** Removes a pair from the page. */
export function remove(id: string): void {
  known.get(id)?.stop();
  known.delete(id);
  names.value = names.value.filter((name) => name !== id);
}

/** Loads the pairs of the exchange. */
export async function loadCatalogue(): Promise<void> {
  const prefix = "coinbase/ticker/";
  const topics = await rest.topics(prefix).catch(() => undefined);
  if (topics) catalogue.value = topics.map(({ topic }) => topic.slice(prefix.length));
}
