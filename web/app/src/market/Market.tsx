/** The market view: the reader's pairs, and one of them in detail. */

import { path } from "../router";
import { PairSearch } from "./PairSearch";
import { PairView } from "./PairView";
import { isPair, pairs } from "./pairs";
import { Tile } from "./Tile";

/** The view. */
export function Market() {
  const requested = path.value[1]?.toUpperCase();
  const selected = requested && isPair(requested) ? requested : pairs.value[0]?.id;
  return (
    <div class="market">
      <aside class="watch" aria-label="Your pairs">
        <PairSearch />
        <ul class="tiles">
          {pairs.value.map((pair) => (
            <Tile key={pair.id} pair={pair} selected={pair.id === selected} />
          ))}
        </ul>
      </aside>
      {selected ? (
        <PairView key={selected} id={selected} />
      ) : (
        <section class="card notice">
          <h1>No pairs</h1>
          <p>To add a pair, type a part of its name above, such as “BTC”.</p>
        </section>
      )}
    </div>
  );
}
