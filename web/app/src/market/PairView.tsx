/** The detailed view of one pair. */

import { useSignal } from "@preact/signals";
import type { Match } from "headwater-client";
import { useMemo } from "preact/hooks";
import { amount, clock, compact, fixed } from "../format";
import { PlusIcon } from "../icons";
import { Notice, NoticeCard } from "../Notice";
import { atMostEvery } from "../paint";
import { useTopic } from "../useTopic";
import { Chart, type TradeEvent, type TradeSource } from "./Chart";
import { Ladder } from "./Ladder";
import { add, type Pair, pairs } from "./pairs";
import { Change, Price } from "./Tile";

/** The number of trades that are listed. */
const LISTED = 21;

/** The shortest time between two updates of the list, in milliseconds. */
const DRAW_EVERY_MS = 250;

/** The number of trades that the subscription starts with. Older trades are read from the log. */
const LAST = 1_000;

/** Passes trades to its listeners, and buffers the trades that arrive before the first listener. */
class TradeStream implements TradeSource {
  readonly #listeners = new Set<(event: TradeEvent) => void>();
  #buffer: TradeEvent[] = [];
  #resolveFirst: (seq: number) => void = () => {};
  /** Resolves with the sequence number of the first event. */
  readonly first = new Promise<number>((resolve) => {
    this.#resolveFirst = resolve;
  });

  publish(seq: number, event: TradeEvent): void {
    this.#resolveFirst(seq);
    if (this.#listeners.size === 0 && this.#buffer.length < LAST * 2) this.#buffer.push(event);
    for (const listener of this.#listeners) listener(event);
  }

  onTrade(listener: (event: TradeEvent) => void): () => void {
    for (const event of this.#buffer) listener(event);
    this.#buffer = [];
    this.#listeners.add(listener);
    return () => this.#listeners.delete(listener);
  }
}

/** The view. It is created anew for each pair. */
export function PairView({ id }: { id: string }) {
  const pair = pairs.value.find((known) => known.id === id);
  if (!pair) return <UnknownPair id={id} />;
  return <KnownPair pair={pair} />;
}

function UnknownPair({ id }: { id: string }) {
  return (
    <section class="card notice">
      <h1>{id}</h1>
      <p>This pair is not on your page.</p>
      <button type="button" class="button" onClick={() => add(id)}>
        <PlusIcon /> Add {id}
      </button>
    </section>
  );
}

function KnownPair({ pair }: { pair: Pair }) {
  const trades = useSignal<readonly Match[]>([]);
  const [latest, draw, stream] = useMemo(() => {
    const list: Match[] = [];
    const show = () => {
      trades.value = list.slice();
    };
    return [list, atMostEvery(DRAW_EVERY_MS, show), new TradeStream()];
  }, []);
  const error = useTopic(`coinbase/matches/${pair.id}`, { last: LAST }, ({ seq, event }) => {
    stream.publish(seq, event);
    if (latest.some(({ trade_id }) => trade_id === event.trade_id)) return;
    latest.unshift(event);
    latest.length = Math.min(latest.length, LISTED);
    draw();
  });
  return (
    <article class="pair" aria-label={pair.id}>
      <Head pair={pair} />
      {pair.error.value ? (
        <section class="card">
          <Notice error={pair.error.value} what="Prices" />
        </section>
      ) : error ? (
        <TickerChart pair={pair} />
      ) : (
        <Chart pair={pair.id} channel="matches" decimals={pair.decimals} source={stream} first={stream.first} />
      )}
      <div class="halves">
        <Ladder pair={pair.id} decimals={pair.decimals} />
        <TradeList pair={pair} trades={trades.value} error={error} />
      </div>
    </article>
  );
}

/** The chart for classes that may not read every trade: it uses the tickers. */
function TickerChart({ pair }: { pair: Pair }) {
  const stream = useMemo(() => new TradeStream(), []);
  useTopic(`coinbase/ticker/${pair.id}`, { last: LAST }, ({ seq, event }) => stream.publish(seq, event));
  return <Chart pair={pair.id} channel="ticker" decimals={pair.decimals} source={stream} first={stream.first} />;
}

function Head({ pair }: { pair: Pair }) {
  const ticker = pair.quote.value?.ticker;
  const [base = "", quote = ""] = pair.id.split("-");
  const figure = (text: string | undefined, decimals = pair.decimals) => (text ? fixed(Number(text), decimals) : "–");
  const figures = [
    ["Bid", figure(ticker?.best_bid)],
    ["Ask", figure(ticker?.best_ask)],
    ["24 h high", figure(ticker?.high_24h)],
    ["24 h low", figure(ticker?.low_24h)],
    ["24 h volume", ticker ? `${compact(Number(ticker.volume_24h))} ${base}` : "–"],
  ];
  return (
    <header class="pair-head">
      <div>
        <h1>
          {base}
          <span>/{quote}</span>
        </h1>
        <p class="big">
          <Price pair={pair} /> <Change pair={pair} />
        </p>
      </div>
      <dl class="figures">
        {figures.map(([name, value]) => (
          <div key={name}>
            <dt>{name}</dt>
            <dd>{value}</dd>
          </div>
        ))}
      </dl>
    </header>
  );
}

function TradeList(props: { pair: Pair; trades: readonly Match[]; error: Error | undefined }) {
  const { pair, trades, error } = props;
  if (error) return <NoticeCard title="Trades" error={error} what="Trades" />;
  const rows = Array.from({ length: LISTED }, (_, index) => trades[index]);
  return (
    <section class="card" aria-label={`Trades of ${pair.id}`}>
      <header class="card-head">
        <h2>Trades</h2>
      </header>
      <table class="ladder trades" aria-label="Latest trades, newest first">
        <thead>
          <tr>
            <th scope="col">Price</th>
            <th scope="col">Size</th>
            <th scope="col">Time</th>
          </tr>
        </thead>
        <tbody>
          {rows.map((trade, index) =>
            trade ? (
              <tr key={index}>
                {/* The side is the maker's, so the taker did the opposite. */}
                <td class={trade.side === "sell" ? "up" : "down"}>
                  <span class="sr-only">{trade.side === "sell" ? "bought at " : "sold at "}</span>
                  {fixed(Number(trade.price), pair.decimals)}
                </td>
                <td>{amount(trade.size)}</td>
                <td>
                  <time dateTime={trade.time}>{clock(trade.time)}</time>
                </td>
              </tr>
            ) : (
              <tr key={index} class="blank">
                <td>&nbsp;</td>
                <td />
                <td />
              </tr>
            ),
          )}
        </tbody>
      </table>
    </section>
  );
}
