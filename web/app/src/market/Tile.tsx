/** The tile of a pair. */

import { useEffect, useRef } from "preact/hooks";
import { fixed, percent } from "../format";
import { CloseIcon, PlayIcon, StopIcon } from "../icons";
import { type Pair, remove } from "./pairs";
import { Sparkline } from "./Sparkline";

/** How long a changed price is highlighted, in milliseconds. */
const FLASH_MS = 400;

const reducedMotion = matchMedia("(prefers-reduced-motion: reduce)");

/** The price of a pair, highlighted when it changes. */
export function Price({ pair }: { pair: Pair }) {
  const quote = pair.quote.value;
  const element = useRef<HTMLSpanElement>(null);
  const price = quote?.price;
  const direction = quote?.direction;
  useEffect(() => {
    if (price === undefined || direction === undefined || reducedMotion.matches) return;
    const { current } = element;
    current?.classList.add(direction);
    // Two repaints, whereas an animation would repaint every frame.
    const timer = setTimeout(() => current?.classList.remove(direction), FLASH_MS);
    return () => {
      clearTimeout(timer);
      current?.classList.remove(direction);
    };
  }, [price]);
  return (
    <span class="price" ref={element}>
      {quote ? fixed(quote.price, pair.decimals) : <span class="skeleton">00,000.00</span>}
    </span>
  );
}

/** The change of a price in 24 hours. */
export function Change({ pair }: { pair: Pair }) {
  const change = pair.quote.value?.change;
  if (change === undefined) return <span class="change">–</span>;
  const direction = change > 0 ? "up" : change < 0 ? "down" : "";
  return (
    <span class={`change ${direction}`}>
      <span aria-hidden="true">{change > 0 ? "▲" : change < 0 ? "▼" : ""}</span> {percent(change)}
    </span>
  );
}

/** A link to the pair, with buttons to stop and remove it. */
export function Tile({ pair, selected }: { pair: Pair; selected: boolean }) {
  const running = pair.running.value;
  const error = pair.error.value;
  const points = pair.points.value;
  const rising = (points.at(-1) ?? 0) >= (points[0] ?? 0);
  return (
    <li class={`tile ${selected ? "selected" : ""} ${running ? "" : "stopped"}`} data-pair={pair.id}>
      <a class="tile-link" href={`/market/${pair.id}`} aria-current={selected ? "page" : undefined}>
        <span class="tile-name">
          <b>{pair.id.split("-")[0]}</b>
          <span>{pair.id.split("-")[1]}</span>
        </span>
        <Price pair={pair} />
        <Sparkline points={points} rising={rising} />
        {error ? (
          <span class="change">rejected</span>
        ) : running ? (
          <Change pair={pair} />
        ) : (
          <span class="change">stopped</span>
        )}
      </a>
      <span class="tile-tools">
        <button
          type="button"
          class="icon-button"
          aria-label={running ? `Stop ${pair.id}` : `Start ${pair.id}`}
          title={running ? "Stop" : "Start"}
          onClick={() => (running ? pair.stop() : pair.start())}
        >
          {running ? <StopIcon /> : <PlayIcon />}
        </button>
        <button
          type="button"
          class="icon-button"
          aria-label={`Remove ${pair.id}`}
          title="Remove"
          onClick={() => remove(pair.id)}
        >
          <CloseIcon />
        </button>
      </span>
    </li>
  );
}
