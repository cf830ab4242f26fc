/** The book of a pair, as a ladder of prices. */

import { useSignal } from "@preact/signals";
import { useMemo } from "preact/hooks";
import { amount, fixed } from "../format";
import { atMostEvery } from "../frame";
import { Notice } from "../Notice";
import { useTopic } from "../useTopic";
import { Book, type Ladder as Levels } from "./book";

/** Levels that are shown of a side. */
const LEVELS = 10;

/** How often the ladder is drawn, in milliseconds. */
const DRAW_EVERY_MS = 250;

/** The best prices of both sides, and how much is offered up to each. */
export function Ladder({ pair, decimals }: { pair: string; decimals: number }) {
  const levels = useSignal<Levels | undefined>(undefined);
  const round = useSignal(0);
  const [book, draw] = useMemo(() => {
    const it = new Book();
    return [
      it,
      atMostEvery(DRAW_EVERY_MS, () => {
        levels.value = it.ladder(LEVELS);
      }),
    ];
  }, []);
  // A book with a hole is wrong: begin again, with a snapshot.
  const onGap = () => {
    round.value += 1;
  };
  const error = useTopic(
    `coinbase/level2/${pair}`,
    true,
    { onGap },
    ({ event }) => {
      if (event.type === "l2update" && book.isEmpty) return;
      book.apply(event);
      draw();
    },
    round.value,
  );
  if (error)
    return (
      <section class="card">
        <header class="card-head">
          <h2>Book</h2>
        </header>
        <Notice error={error} what="Books" />
      </section>
    );
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
          {rows(asks)
            .reverse()
            .map((level, index) => (
              <Row key={LEVELS - index} level={level} depth={depth} decimals={decimals} side="ask" />
            ))}
        </tbody>
        <tbody class="bids">
          {rows(bids).map((level, index) => (
            <Row key={index} level={level} depth={depth} decimals={decimals} side="bid" />
          ))}
        </tbody>
      </table>
    </section>
  );
}

function rows(levels: Levels["bids"]): (Levels["bids"][number] | undefined)[] {
  return Array.from({ length: LEVELS }, (_, index) => levels[index]);
}

function Row(props: {
  level: Levels["bids"][number] | undefined;
  depth: number;
  decimals: number;
  side: "bid" | "ask";
}) {
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
