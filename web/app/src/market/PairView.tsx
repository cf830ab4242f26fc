/** Everything about one pair. */

import { useSignal } from "@preact/signals";
import type { Match } from "headwater-client";
import { useMemo } from "preact/hooks";
import { amount, clock, compact, fixed } from "../format";
import { atMostEvery } from "../frame";
import { Plus } from "../icons";
import { Notice } from "../Notice";
import { useTopic } from "../useTopic";
import { Chart, type ChartFeed } from "./Chart";
import { Ladder } from "./Ladder";
import { add, type Pair, pairs } from "./pairs";
import { Change, Price } from "./Tile";

/** Trades that are listed. */
const LISTED = 24;

/** How often the list is drawn, in milliseconds. */
const DRAW_EVERY_MS = 200;

/** Trades that the subscription starts with; what is older is read from the log. */
const LAST = 1_000;

/** Hands trades to whoever listens, and keeps those that came before they did. */
class Feed implements ChartFeed {
  readonly #listeners = new Set<(match: Match) => void>();
  #early: Match[] = [];

  publish(match: Match): void {
    if (this.#listeners.size === 0 && this.#early.length < LAST * 2) this.#early.push(match);
    for (const listener of this.#listeners) listener(match);
  }

  onTrade(listener: (match: Match) => void): () => void {
    for (const match of this.#early) listener(match);
    this.#early = [];
    this.#listeners.add(listener);
    return () => this.#listeners.delete(listener);
  }
}

/** A pair in full. It is made anew for each pair. */
export function PairView({ id }: { id: string }) {
  const pair = pairs.value.find((one) => one.id === id);
  if (!pair) return <Unknown id={id} />;
  return <Known pair={pair} />;
}

function Unknown({ id }: { id: string }) {
  return (
    <section class="card notice">
      <h1>{id}</h1>
      <p>This pair is not on your page yet.</p>
      <button type="button" class="button" onClick={() => add(id)}>
        <Plus /> Add {id}
      </button>
    </section>
  );
}

function Known({ pair }: { pair: Pair }) {
  const trades = useSignal<readonly Match[]>([]);
  const state = useMemo(() => {
    const latest: Match[] = [];
    let begun: (seq: number) => void = () => {};
    const first = new Promise<number>((resolve) => {
      begun = resolve;
    });
    const draw = atMostEvery(DRAW_EVERY_MS, () => {
      trades.value = latest.slice();
    });
    return { latest, first, begun, draw, feed: new Feed() };
  }, []);
  const error = useTopic(`coinbase/matches/${pair.id}`, true, { last: LAST }, ({ seq, event }) => {
    state.begun(seq);
    state.feed.publish(event);
    if (state.latest.some(({ trade_id }) => trade_id === event.trade_id)) return;
    state.latest.unshift(event);
    state.latest.length = Math.min(state.latest.length, LISTED);
    state.draw();
  });
  return (
    <article class="pair" aria-label={pair.id}>
      <Head pair={pair} />
      {pair.error.value && <Notice error={pair.error.value} what="Prices" />}
      {error ? (
        <section class="card">
          <header class="card-head">
            <h2>Trades</h2>
          </header>
          <Notice error={error} what="Trades" />
        </section>
      ) : (
        <Chart pair={pair.id} decimals={pair.decimals} feed={state.feed} first={state.first} />
      )}
      <div class="halves">
        <Ladder pair={pair.id} decimals={pair.decimals} />
        {!error && <TradeList pair={pair} trades={trades.value} />}
      </div>
    </article>
  );
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

function TradeList({ pair, trades }: { pair: Pair; trades: readonly Match[] }) {
  const rows = Array.from({ length: LISTED - 3 }, (_, index) => trades[index]);
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
                {/* The side is the maker's: when a seller waited, somebody bought. */}
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
