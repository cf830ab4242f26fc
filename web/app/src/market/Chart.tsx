/** The price chart of a pair. Its history comes from the log. */

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
import { atMostEvery } from "../paint";
import { rest } from "../session";
import { color, theme } from "../theme";
import { type Drawing, type Trade, Trades } from "./candles";

/** The intervals of a candle. */
const INTERVALS = [
  { label: "1s", name: "One second", seconds: 1 },
  { label: "5s", name: "Five seconds", seconds: 5 },
  { label: "1m", name: "One minute", seconds: 60 },
  { label: "5m", name: "Five minutes", seconds: 300 },
] as const;

/** The most pages of history that are fetched, of a thousand trades each. */
const MAX_PAGES = 10;

/** The shortest time between two updates of the chart, in milliseconds. */
const DRAW_EVERY_MS = 250;

/** An event that describes a trade. A ticker describes only the newest trade. */
export type TradeEvent = Match | Ticker;

/** A stream of trades for the chart. */
export interface TradeSource {
  /** Calls the listener with each trade, until the returned function is called. */
  onTrade(listener: (event: TradeEvent) => void): () => void;
}

/** The chart of `pair`, from the trades of `channel`. `first` resolves with the sequence number of the first event of `source`. */
export function Chart(props: {
  pair: string;
  channel: "matches" | "ticker";
  decimals: number;
  source: TradeSource;
  first: Promise<number>;
}) {
  const { pair, channel, decimals, source, first } = props;
  const seconds = useSignal<number>(1);
  const empty = useSignal(true);
  /** Whether the reader has chosen an interval. */
  const chosen = useRef(false);
  const box = useRef<HTMLDivElement>(null);
  const mounted = useRef<{ chart: IChartApi; show: () => void; trades: Trades } | undefined>(undefined);

  useEffect(() => {
    const element = box.current;
    if (!element) return;
    const chart = createChart(element, {
      autoSize: true,
      layout: { attributionLogo: false, fontFamily: getComputedStyle(element).fontFamily },
      timeScale: { timeVisible: true, secondsVisible: true, rightOffset: 3, barSpacing: 9 },
      localization: { locale: "en-GB" },
      // The wheel and vertical swipes scroll the page.
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
    let unmounted = false;
    const show = () => {
      if (unmounted) return;
      empty.value = trades.length === 0;
      update(candles, volume, trades.draw());
    };
    const draw = atMostEvery(DRAW_EVERY_MS, show);
    const stop = source.onTrade((event) => {
      const trade = toTrade(event);
      if (!trade) return;
      trades.add(trade);
      draw();
    });
    void first.then(
      async (seq) => {
        let before = seq;
        for (let page = 0; page < MAX_PAGES && before > 1 && !unmounted; page += 1) {
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
        if (!chosen.current && !unmounted) group(suitableInterval(trades.span));
      },
      () => {},
    );
    mounted.current = { chart, show, trades };
    return () => {
      unmounted = true;
      stop();
      mounted.current = undefined;
      chart.remove();
    };
  }, [pair, source]);

  useEffect(() => {
    const chart = mounted.current?.chart;
    chart?.applyOptions({ localization: { priceFormatter: (price: number) => fixed(price, decimals) } });
    const priceFormat = { type: "price", precision: decimals, minMove: 10 ** -decimals } as const;
    for (const series of chart?.panes()[0]?.getSeries() ?? []) {
      if (series.seriesType() === "Candlestick") series.applyOptions({ priceFormat });
    }
  }, [decimals, pair, source]);

  useEffect(() => {
    const { chart, trades, show } = mounted.current ?? {};
    if (!chart) return;
    const [text, line, up, down] = ["muted", "line", "up", "down"].map(color) as [string, string, string, string];
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
    // The colors of the volume bars are part of the data, so it is set again.
    trades?.regroup(seconds.peek());
    show?.();
  }, [theme.value, pair, source]);

  const group = (value: number) => {
    seconds.value = value;
    mounted.current?.trades.regroup(value);
    mounted.current?.show();
    mounted.current?.chart.timeScale().resetTimeScale();
  };

  return (
    <section class="card chart" aria-label={`Chart of ${pair}`}>
      <header class="card-head">
        <h2>Price</h2>
        <fieldset class="segments">
          <legend class="sr-only">Interval of a candle</legend>
          {INTERVALS.map((interval) => (
            <label key={interval.label}>
              <input
                type="radio"
                name="interval"
                checked={seconds.value === interval.seconds}
                onChange={() => {
                  chosen.current = true;
                  group(interval.seconds);
                }}
              />
              <span aria-hidden="true">{interval.label}</span>
              <span class="sr-only">{interval.name}</span>
            </label>
          ))}
        </fieldset>
      </header>
      <div class="chart-box">
        <div
          class="chart-canvas"
          ref={box}
          role="img"
          aria-label={`Candles of ${pair}; the list of trades has the same data as text`}
        />
        {empty.value && <p class="quiet over">No trades yet. New trades appear here immediately.</p>}
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

/** Returns the interval, in seconds, that suits a time span best. */
function suitableInterval(span: number): number {
  const ideal = span / 150;
  return INTERVALS.find(({ seconds }) => seconds >= ideal)?.seconds ?? 300;
}

function toTrade(event: TradeEvent): Trade | undefined {
  const { trade_id: id, time, price } = event;
  if (id === undefined || time === undefined) return undefined;
  const size = event.type === "ticker" ? event.last_size : event.size;
  return { id, time: Date.parse(time) / 1_000, price: Number(price), size: Number(size ?? 0) };
}

function update(candles: ISeriesApi<"Candlestick">, volume: ISeriesApi<"Histogram">, drawing: Drawing): void {
  const [up, down] = [color("up-soft"), color("down-soft")];
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
