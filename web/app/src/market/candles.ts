/** Trades, summed up in candles. */

/** A candle: its start in seconds, and what happened until the next. */
export interface Candle {
  time: number;
  open: number;
  high: number;
  low: number;
  close: number;
  volume: number;
}

/** A trade, as far as a candle is concerned. */
export interface Trade {
  /** The exchange's number of it: a later trade has a higher one. */
  id: number;
  /** In seconds. */
  time: number;
  price: number;
  size: number;
}

/** Most trades that are kept, to sum them up anew for another interval. */
const MAX_TRADES = 20_000;

/** What has to be drawn: everything, or the candles that are new or have changed. */
export interface Drawing {
  all: boolean;
  candles: Candle[];
}

/** Trades of a pair, in order, and the candles that they make. */
export class Trades {
  #trades: Trade[] = [];
  #seconds: number;
  #candles: Candle[] = [];
  /** Candles from this index on have changed since they were drawn. */
  #changed = 0;
  #whole = true;

  /** Candles of `seconds` each. */
  constructor(seconds: number) {
    this.#seconds = seconds;
  }

  /** How many candles there are. Where nothing was traded there is none. */
  get length(): number {
    return this.#candles.length;
  }

  /** Seconds from the first trade to the last. */
  get span(): number {
    return (this.#trades.at(-1)?.time ?? 0) - (this.#trades[0]?.time ?? 0);
  }

  /** Sums the trades up anew, in candles of `seconds` each. */
  regroup(seconds: number): void {
    this.#seconds = seconds;
    this.#candles = [];
    for (const trade of this.#trades) this.#extend(trade);
    this.#whole = true;
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

  /** Returns what has to be drawn since the last time. */
  draw(): Drawing {
    const drawing = { all: this.#whole, candles: this.#candles.slice(this.#whole ? 0 : this.#changed) };
    this.#whole = false;
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

/** Returns `candle` with a trade, or the candle that the trade begins. */
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
