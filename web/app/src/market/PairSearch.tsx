/** Finding a pair of the exchange and putting it on the page. */

import { useComputed, useSignal } from "@preact/signals";
import { useRef } from "preact/hooks";
import { Plus, Search } from "../icons";
import { go } from "../router";
import { add, catalogue, isPair, loadCatalogue, pairs } from "./pairs";

/** Most pairs that are offered at once. */
const OFFERED = 8;

/** A box to type a part of a pair's name in: a combobox, as ARIA's authoring practices have it. */
export function PairSearch() {
  const text = useSignal("");
  const open = useSignal(false);
  const at = useSignal(0);
  const input = useRef<HTMLInputElement>(null);
  const found = useComputed(() => {
    const query = text.value.trim().toUpperCase().replace(/[/ ]/g, "-");
    const all = catalogue.value ?? [];
    const rank = (id: string) => (id.startsWith(query) ? 0 : id.includes(`-${query}`) ? 1 : 2);
    return all
      .filter((id) => id.includes(query))
      .sort((a, b) => rank(a) - rank(b) || a.localeCompare(b))
      .slice(0, OFFERED);
  });
  const onPage = new Set(pairs.value.map(({ id }) => id));
  const shown = open.value;

  const choose = (id: string | undefined) => {
    const wanted = id ?? text.value.trim().toUpperCase();
    if (!isPair(wanted)) return;
    add(wanted);
    go(`/market/${wanted}`);
    text.value = "";
    open.value = false;
    input.current?.blur();
  };
  const onKeyDown = (event: KeyboardEvent) => {
    if (event.key === "ArrowDown" || event.key === "ArrowUp") {
      event.preventDefault();
      open.value = true;
      const count = Math.max(1, found.value.length);
      at.value = (at.value + (event.key === "ArrowDown" ? 1 : count - 1)) % count;
    } else if (event.key === "Enter") {
      event.preventDefault();
      choose(found.value[at.value]);
    } else if (event.key === "Escape") {
      open.value = false;
      text.value = "";
    }
  };

  return (
    <div class="search">
      <Search />
      <input
        ref={input}
        type="text"
        role="combobox"
        aria-label="Add a pair"
        aria-expanded={shown}
        aria-controls="pair-list"
        aria-autocomplete="list"
        aria-activedescendant={shown && found.value[at.value] ? `pair-${found.value[at.value]}` : undefined}
        placeholder="Add a pair, such as ETH-EUR"
        autocomplete="off"
        spellcheck={false}
        value={text.value}
        onFocus={() => {
          open.value = true;
          if (catalogue.value === undefined || catalogue.value.length === 0) void loadCatalogue();
        }}
        onBlur={() => {
          open.value = false;
        }}
        onInput={(event) => {
          text.value = event.currentTarget.value;
          at.value = 0;
          open.value = true;
        }}
        onKeyDown={onKeyDown}
      />
      <div id="pair-list" class="search-list" role="listbox" aria-label="Pairs" hidden={!shown}>
        {found.value.map((id, index) => (
          // biome-ignore lint/a11y/useFocusableInteractive: a combobox keeps the focus and names its active option
          // biome-ignore lint/a11y/useKeyWithClickEvents: the combobox takes the keys
          <div
            key={id}
            id={`pair-${id}`}
            role="option"
            aria-selected={index === at.value}
            onMouseDown={(event) => event.preventDefault()}
            onClick={() => choose(id)}
          >
            <b>{id}</b>
            {onPage.has(id) ? <span>on the page</span> : <Plus />}
          </div>
        ))}
        {found.value.length === 0 && (
          <p class="quiet">
            {catalogue.value === undefined ? "Loading the pairs…" : `The exchange has no pair like “${text.value}”.`}
          </p>
        )}
      </div>
    </div>
  );
}
