/** The order book of a pair, as a ladder of prices. */

import { useSignal } from "@preact/signals";
import { useMemo } from "preact/hooks";
import { amount, fixed } from "../format";
import { NoticeCard } from "../Notice";
import { atMostEvery } from "../paint";
import { useTopic } from "../useTopic";
import { type BestLevels, type Level, OrderBook } from "./order-book";

/** The number of levels that are shown of each side. */
const LEVELS = 10;

/** The shortest time between two updates of the ladder, in milliseconds. */
const DRAW_EVERY_MS = 250;

/** The best prices of both sides, and the total size up to each. */
export function Ladder({ pair, decimals }: { pair: string; decimals: number }) {
  const levels = useSignal<BestLevels | undefined>(undefined);
  const restarts = useSignal(0);
  const [book, draw] = useMemo(() => {
    const book = new OrderBook();
    return [
      book,
      atMostEvery(DRAW_EVERY_MS, () => {
        levels.value = book.best(LEVELS);
      }),
    ];
  }, []);
  // With missing updates the book is wrong, so it restarts with a snapshot.
  const onGap = () => {
    restarts.value += 1;
  };
  const error = useTopic(
    `coinbase/level2/${pair}`,
    { onGap },
    ({ event }) => {
      if (event.type === "l2update" && book.isEmpty) return;
      book.apply(event);
      draw();
    },
    restarts.value,
  );
  if (error) return <NoticeCard title="Book" error={error} what="Books" />;
  const { bids = [], asks = [], depth = 1 } = levels.value ?? {};
  const [bid, ask] = [Number(bids[0]?.price), Number(asks[0]?.price)];
  const spread = ask - bid;
  return (
    <section class="card" aria-label={`Book of ${pair}`}>
      <header class="card-head">
        <h2>Book</h2>
        <span class="quiet">{Number.isFinite(spread) ? `spread ${fixed(spread, decimals)}` : "\u00a0"}</span>
      </header>
      <table class="ladder" aria-label="Best prices of both sides">
        <thead>
          <tr>
            <th scope="col">Price</th>
            <th scope="col">Size</th>
            <th scope="col">Total</th>
          </tr>
        </thead>
        <tbody class="asks">
          {padded(asks)
            .reverse()
            .map((level, index) => (
              <Row key={LEVELS - index} level={level} depth={depth} decimals={decimals} side="ask" />
            ))}
        </tbody>
        <tbody class="bids">
          {padded(bids).map((level, index) => (
            <Row key={index} level={level} depth={depth} decimals={decimals} side="bid" />
          ))}
        </tbody>
      </table>
    </section>
  );
}

function padded(levels: Level[]): (Level | undefined)[] {
  return Array.from({ length: LEVELS }, (_, index) => levels[index]);
}

function Row(props: { level: Level | undefined; depth: number; decimals: number; side: "bid" | "ask" }) {
  const { level, depth, decimals, side } = props;
  if (!level)
    return (
      <tr class="blank">
        <td>&nbsp;</td>
        <td />
        <td />
      </tr>
    );
  return (
    <tr>
      <td class={side === "bid" ? "up" : "down"}>{fixed(Number(level.price), decimals)}</td>
      <td>{amount(String(level.size))}</td>
      <td>
        {amount(String(level.total))}
        <span class="bar" style={{ transform: `scaleX(${Math.min(1, level.total / depth).toFixed(3)})` }} />
      </td>
    </tr>
  );
}
