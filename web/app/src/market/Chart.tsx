/** The chart of a pair, filled from the log. */

import { useSignal } from "@preact/signals";
import type { Match, Ticker } from "headwater-client";
import {
  CandlestickSeries,
  ColorType,
  createChart,
  HistogramSeries,
  type IChartApi,
  type ISeriesApi,
  type UTCTimestamp,
} from "lightweight-charts";
import { useEffect, useRef } from "preact/hooks";
import { fixed } from "../format";
import { atMostEvery } from "../frame";
import { rest } from "../session";
import { colour, theme } from "../theme";
import { type Drawing, type Trade, Trades } from "./candles";

/** What a candle can sum up. */
const INTERVALS = [
  { label: "1s", name: "One second", seconds: 1 },
  { label: "5s", name: "Five seconds", seconds: 5 },
  { label: "1m", name: "One minute", seconds: 60 },
  { label: "5m", name: "Five minutes", seconds: 300 },
] as const;

/** Pages of history that are fetched, of a thousand trades each. */
const PAGES = 10;

/** How often the chart is drawn, in milliseconds. */
const DRAW_EVERY_MS = 250;

/** An event that tells of a trade. A ticker tells of the newest; those between are not told of. */
export type TradeEvent = Match | Ticker;

/** Gives a chart the trades as they come. */
export interface ChartFeed {
  /** Calls with each trade. */
  onTrade(listener: (event: TradeEvent) => void): () => void;
}

/** A chart of `pair`. `channel` has its trades, and `first` resolves with the number of the first that `feed` gives. */
export function Chart(props: {
  pair: string;
  channel: "matches" | "ticker";
  decimals: number;
  feed: ChartFeed;
  first: Promise<number>;
}) {
  const { pair, channel, decimals, feed, first } = props;
  const seconds = useSignal<number>(1);
  const empty = useSignal(true);
  /** Whether the reader has said which candles they want. */
  const chosen = useRef(false);
  const box = useRef<HTMLDivElement>(null);
  const drawn = useRef<{ chart: IChartApi; show: () => void; trades: Trades } | undefined>(undefined);

  useEffect(() => {
    const element = box.current;
    if (!element) return;
    const chart = createChart(element, {
      autoSize: true,
      layout: { attributionLogo: false, fontFamily: getComputedStyle(element).fontFamily },
      timeScale: { timeVisible: true, secondsVisible: true, rightOffset: 3, barSpacing: 9 },
      localization: { locale: "en-GB" },
      // The wheel and a finger that moves up or down are for the page.
      handleScroll: { mouseWheel: false, vertTouchDrag: false },
      handleScale: { mouseWheel: false },
    });
    const candles = chart.addSeries(CandlestickSeries);
    const volume = chart.addSeries(HistogramSeries, {
      priceScaleId: "",
      priceFormat: { type: "volume" },
      lastValueVisible: false,
      priceLineVisible: false,
    });
    volume.priceScale().applyOptions({ scaleMargins: { top: 0.84, bottom: 0 } });
    candles.priceScale().applyOptions({ scaleMargins: { top: 0.08, bottom: 0.22 } });
    const trades = new Trades(seconds.peek());
    let gone = false;
    const show = () => {
      if (gone) return;
      empty.value = trades.length === 0;
      put(candles, volume, trades.draw());
    };
    const draw = atMostEvery(DRAW_EVERY_MS, show);
    const stop = feed.onTrade((event) => {
      const trade = toTrade(event);
      if (!trade) return;
      trades.add(trade);
      draw();
    });
    void first.then(
      async (seq) => {
        let before = seq;
        for (let page = 0; page < PAGES && before > 1 && !gone; page += 1) {
          const { events } = await rest.history<`coinbase/matches/${string}` | `coinbase/ticker/${string}`>(
            `coinbase/${channel}/${pair}`,
            { before, limit: 1_000 },
          );
          const oldest = events[0];
          if (!oldest) break;
          trades.prepend(events.flatMap(({ event }) => toTrade(event) ?? []));
          before = oldest.seq;
          draw();
        }
        if (!chosen.current && !gone) group(fitting(trades.span));
      },
      () => {},
    );
    drawn.current = { chart, show, trades };
    return () => {
      gone = true;
      stop();
      drawn.current = undefined;
      chart.remove();
    };
  }, [pair, feed]);

  useEffect(() => {
    const chart = drawn.current?.chart;
    chart?.applyOptions({ localization: { priceFormatter: (price: number) => fixed(price, decimals) } });
    const priceFormat = { type: "price", precision: decimals, minMove: 10 ** -decimals } as const;
    for (const series of chart?.panes()[0]?.getSeries() ?? []) {
      if (series.seriesType() === "Candlestick") series.applyOptions({ priceFormat });
    }
  }, [decimals, pair, feed]);

  useEffect(() => {
    const { chart, trades, show } = drawn.current ?? {};
    if (!chart) return;
    const [text, line, up, down] = ["muted", "line", "up", "down"].map(colour) as [string, string, string, string];
    chart.applyOptions({
      layout: { background: { type: ColorType.Solid, color: "transparent" }, textColor: text },
      grid: { vertLines: { visible: false }, horzLines: { color: line } },
      rightPriceScale: { borderVisible: false },
      timeScale: { borderVisible: false },
      crosshair: {
        vertLine: { color: text, labelBackgroundColor: text },
        horzLine: { color: text, labelBackgroundColor: text },
      },
    });
    for (const pane of chart.panes()) {
      for (const series of pane.getSeries()) {
        if (series.seriesType() !== "Candlestick") continue;
        series.applyOptions({
          upColor: up,
          downColor: down,
          borderVisible: false,
          wickUpColor: up,
          wickDownColor: down,
        });
      }
    }
    // The bars of the volume have their colours in the data.
    trades?.regroup(seconds.peek());
    show?.();
  }, [theme.value, pair, feed]);

  const group = (value: number) => {
    seconds.value = value;
    drawn.current?.trades.regroup(value);
    drawn.current?.show();
    drawn.current?.chart.timeScale().resetTimeScale();
  };

  return (
    <section class="card chart" aria-label={`Chart of ${pair}`}>
      <header class="card-head">
        <h2>Price</h2>
        <fieldset class="segments">
          <legend class="sr-only">A candle stands for</legend>
          {INTERVALS.map((one) => (
            <label key={one.label}>
              <input
                type="radio"
                name="interval"
                checked={seconds.value === one.seconds}
                onChange={() => {
                  chosen.current = true;
                  group(one.seconds);
                }}
              />
              <span aria-hidden="true">{one.label}</span>
              <span class="sr-only">{one.name}</span>
            </label>
          ))}
        </fieldset>
      </header>
      <div class="chart-box">
        <div
          class="chart-canvas"
          ref={box}
          role="img"
          aria-label={`Candles of the trades of ${pair}; the list of trades has them in words`}
        />
        {empty.value && <p class="quiet over">No trades yet. The first appears here at once.</p>}
      </div>
      <p class="credit">
        Charts by{" "}
        <a href="https://www.tradingview.com/" target="_blank" rel="noopener noreferrer">
          TradingView
        </a>
      </p>
    </section>
  );
}

/** The candles that show a span of time, in seconds, best. */
function fitting(span: number): number {
  const wanted = span / 150;
  return INTERVALS.find(({ seconds }) => seconds >= wanted)?.seconds ?? 300;
}

function toTrade(event: TradeEvent): Trade | undefined {
  const { trade_id: id, time, price } = event;
  if (id === undefined || time === undefined) return undefined;
  const size = event.type === "ticker" ? event.last_size : event.size;
  return { id, time: Date.parse(time) / 1_000, price: Number(price), size: Number(size ?? 0) };
}

function put(candles: ISeriesApi<"Candlestick">, volume: ISeriesApi<"Histogram">, drawing: Drawing): void {
  const [up, down] = [colour("up-soft"), colour("down-soft")];
  const bodies = drawing.candles.map(({ volume: _, ...candle }) => ({ ...candle, time: candle.time as UTCTimestamp }));
  const bars = drawing.candles.map(({ time, open, close, volume: value }) => ({
    time: time as UTCTimestamp,
    value,
    color: close >= open ? up : down,
  }));
  if (drawing.all) {
    candles.setData(bodies);
    volume.setData(bars);
    return;
  }
  for (const body of bodies) candles.update(body);
  for (const bar of bars) volume.update(bar);
}
