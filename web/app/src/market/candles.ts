/** Aggregates trades into candles. */

/** A candle. `time` is its start, in seconds. */
export interface Candle {
  time: number;
  open: number;
  high: number;
  low: number;
  close: number;
  volume: number;
}

/** The parts of a trade that a candle needs. */
export interface Trade {
  /** The exchange's id. A later trade has a higher id. */
  id: number;
  /** The time of the trade, in seconds. */
  time: number;
  price: number;
  size: number;
}

/** The most trades that are kept to build candles of another interval. */
const MAX_TRADES = 20_000;

/** What the chart has to draw: all candles, or only the new and changed ones. */
export interface Drawing {
  all: boolean;
  candles: Candle[];
}

/** The trades of a pair, in order, and their candles. */
export class Trades {
  #trades: Trade[] = [];
  #seconds: number;
  #candles: Candle[] = [];
  /** The index of the first candle that has changed since the last `draw`. */
  #changed = 0;
  #redraw = true;

  /** Creates a collection with candles of `seconds` each. */
  constructor(seconds: number) {
    this.#seconds = seconds;
  }

  /** The number of candles. Intervals without trades have no candle. */
  get length(): number {
    return this.#candles.length;
  }

  /** The time from the first trade to the last, in seconds. */
  get span(): number {
    return (this.#trades.at(-1)?.time ?? 0) - (this.#trades[0]?.time ?? 0);
  }

  /** Rebuilds the candles with `seconds` each. */
  regroup(seconds: number): void {
    this.#seconds = seconds;
    this.#candles = [];
    for (const trade of this.#trades) this.#extend(trade);
    this.#redraw = true;
  }

  /** Adds a trade. */
  add(trade: Trade): void {
    const last = this.#trades.at(-1);
    if (last && last.id >= trade.id) {
      const index = this.#trades.findIndex(({ id }) => id >= trade.id);
      if (this.#trades[index]?.id === trade.id) return;
      this.#trades.splice(index, 0, trade);
      this.regroup(this.#seconds);
      return;
    }
    this.#trades.push(trade);
    if (this.#trades.length > MAX_TRADES * 1.1) {
      this.#trades.splice(0, this.#trades.length - MAX_TRADES);
      this.regroup(this.#seconds);
    } else {
      this.#extend(trade);
    }
  }

  /** Adds older trades. */
  prepend(older: readonly Trade[]): void {
    const first = this.#trades[0]?.id ?? Number.POSITIVE_INFINITY;
    const fresh = older.filter(({ id }) => id < first).sort((a, b) => a.id - b.id);
    this.#trades = [...fresh, ...this.#trades];
    this.regroup(this.#seconds);
  }

  /** Returns what has changed since the last call. */
  draw(): Drawing {
    const drawing = { all: this.#redraw, candles: this.#candles.slice(this.#redraw ? 0 : this.#changed) };
    this.#redraw = false;
    this.#changed = this.#candles.length;
    return drawing;
  }

  #extend(trade: Trade): void {
    const last = this.#candles.at(-1);
    const next = extend(last, trade, this.#seconds);
    if (last && next.time === last.time) this.#candles[this.#candles.length - 1] = next;
    else this.#candles.push(next);
    this.#changed = Math.min(this.#changed, this.#candles.length - 1);
  }
}

/** Returns `candle` with the trade added, or the next candle if the trade starts one. */
export function extend(candle: Candle | undefined, trade: Trade, seconds: number): Candle {
  const { price, size } = trade;
  const time = Math.floor(trade.time / seconds) * seconds;
  if (!candle || time > candle.time) return { time, open: price, high: price, low: price, close: price, volume: size };
  return {
    ...candle,
    high: Math.max(candle.high, price),
    low: Math.min(candle.low, price),
    close: price,
    volume: candle.volume + size,
  };
}
