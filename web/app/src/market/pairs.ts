/** The pairs that the reader has put on the page, and their tickers. */

import { computed, type Signal, signal } from "@preact/signals";
import type { Ticker } from "headwater-client";
import { decimalsOf } from "../format";
import { atMostEvery } from "../frame";
import { isTexts, kept } from "../kept";
import { address } from "../router";
import { follow, rest } from "../session";

/** What a first visitor sees. */
const DEFAULT = ["BTC-USD", "ETH-USD", "SOL-USD"];

/** Points of a sparkline. */
const POINTS = 60;

/** How often a price is shown, in milliseconds: nobody reads faster. */
const SHOW_EVERY_MS = 125;

/** How often a sparkline is drawn, in milliseconds. */
const DRAW_EVERY_MS = 1_000;

const PAIR = /^[A-Z0-9]{1,20}-[A-Z0-9]{1,20}$/;

/** What a tile shows. */
export interface Quote {
  ticker: Ticker;
  price: number;
  /** Against the price of 24 hours ago, as a ratio; none where there was none. */
  change: number | undefined;
  /** Where the price went last. */
  direction: "up" | "down" | undefined;
}

/** A pair on the page. */
export class Pair {
  readonly quote = signal<Quote | undefined>(undefined);
  readonly points = signal<readonly number[]>([]);
  readonly error = signal<Error | undefined>(undefined);
  readonly running = signal(false);
  /** Most decimals that a price has had, so that digits do not dance. */
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
    this.#stop = follow(`coinbase/ticker/${this.id}`, { last: POINTS, onError }, ({ event }) => this.#take(event));
  }

  /** Stops it; the last price stays. */
  stop(): void {
    this.#stop?.();
    this.#stop = undefined;
    this.running.value = false;
  }

  #take(ticker: Ticker): void {
    const price = Number(ticker.price);
    const open = Number(ticker.open_24h);
    if (!Number.isFinite(price)) return;
    const before = this.#latest?.price;
    this.decimals = Math.min(8, Math.max(this.decimals, decimalsOf(ticker.price)));
    const moved = before === undefined || before === price ? this.#latest?.direction : price > before ? "up" : "down";
    this.#latest = { ticker, price, change: open > 0 ? price / open - 1 : undefined, direction: moved };
    this.#points.push(price);
    if (this.#points.length > POINTS) this.#points.shift();
    this.#show();
    if (this.points.value.length === 0) this.points.value = this.#points.slice();
    else this.#draw();
  }
}

const linked = (address.value.searchParams.get("pairs") ?? "").split(",").filter((id) => PAIR.test(id));
const names = kept<string[]>("pairs", DEFAULT, isTexts);
if (linked.length > 0) names.value = linked;

const known = new Map<string, Pair>();

/** The pairs on the page, in the reader's order. */
export const pairs = computed(() => names.value.map(pairOf));

/** All pairs that the exchange has; none while they are not known. */
export const catalogue: Signal<readonly string[] | undefined> = signal(undefined);

function pairOf(id: string): Pair {
  const pair = known.get(id) ?? new Pair(id);
  known.set(id, pair);
  return pair;
}

/** Starts the pairs that the page begins with. */
export function startPairs(): void {
  for (const pair of pairs.value) pair.start();
  void loadCatalogue();
}

/** Whether a text can be a pair. */
export function isPair(text: string): boolean {
  return PAIR.test(text);
}

/** Puts a pair on the page and starts it. */
export function add(id: string): void {
  if (!names.value.includes(id)) names.value = [...names.value, id];
  pairOf(id).start();
}

/** Takes a pair off the page. */
export function remove(id: string): void {
  known.get(id)?.stop();
  known.delete(id);
  names.value = names.value.filter((name) => name !== id);
}

/** Reads what the exchange has. */
export async function loadCatalogue(): Promise<void> {
  const prefix = "coinbase/ticker/";
  const topics = await rest.topics(prefix).catch(() => undefined);
  if (topics) catalogue.value = topics.map(({ topic }) => topic.slice(prefix.length));
}
