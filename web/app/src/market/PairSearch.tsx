/** The search box that adds a pair to the page. */

import { useComputed, useSignal } from "@preact/signals";
import { useRef } from "preact/hooks";
import { PlusIcon, SearchIcon } from "../icons";
import { go } from "../router";
import { add, catalogue, isPair, loadCatalogue, pairs } from "./pairs";

/** The most pairs that are suggested. */
const MAX_SUGGESTIONS = 8;

/** A combobox, as in ARIA's authoring practices. The reader types a part of a pair's name. */
export function PairSearch() {
  const text = useSignal("");
  const open = useSignal(false);
  const active = useSignal(0);
  const input = useRef<HTMLInputElement>(null);
  const matches = useComputed(() => {
    const query = text.value.trim().toUpperCase().replace(/[/ ]/g, "-");
    const all = catalogue.value ?? [];
    const rank = (id: string) => (id.startsWith(query) ? 0 : id.includes(`-${query}`) ? 1 : 2);
    return all
      .filter((id) => id.includes(query))
      .sort((a, b) => rank(a) - rank(b) || a.localeCompare(b))
      .slice(0, MAX_SUGGESTIONS);
  });
  const onPage = new Set(pairs.value.map(({ id }) => id));
  const expanded = open.value;

  const choose = (id: string | undefined) => {
    const pair = id ?? text.value.trim().toUpperCase();
    if (!isPair(pair)) return;
    add(pair);
    go(`/market/${pair}`);
    text.value = "";
    open.value = false;
    input.current?.blur();
  };
  const onKeyDown = (event: KeyboardEvent) => {
    if (event.key === "ArrowDown" || event.key === "ArrowUp") {
      event.preventDefault();
      open.value = true;
      const count = Math.max(1, matches.value.length);
      active.value = (active.value + (event.key === "ArrowDown" ? 1 : count - 1)) % count;
    } else if (event.key === "Enter") {
      event.preventDefault();
      choose(matches.value[active.value]);
    } else if (event.key === "Escape") {
      open.value = false;
      text.value = "";
    }
  };

  return (
    <div class="search">
      <SearchIcon />
      <input
        ref={input}
        type="text"
        role="combobox"
        aria-label="Add a pair"
        aria-expanded={expanded}
        aria-controls="pair-list"
        aria-autocomplete="list"
        aria-activedescendant={
          expanded && matches.value[active.value] ? `pair-${matches.value[active.value]}` : undefined
        }
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
          active.value = 0;
          open.value = true;
        }}
        onKeyDown={onKeyDown}
      />
      <div id="pair-list" class="search-list" role="listbox" aria-label="Pairs" hidden={!expanded}>
        {matches.value.map((id, index) => (
          // biome-ignore lint/a11y/useFocusableInteractive: a combobox keeps the focus and references its active option
          // biome-ignore lint/a11y/useKeyWithClickEvents: the combobox handles the keys
          <div
            key={id}
            id={`pair-${id}`}
            role="option"
            aria-selected={index === active.value}
            onMouseDown={(event) => event.preventDefault()}
            onClick={() => choose(id)}
          >
            <b>{id}</b>
            {onPage.has(id) ? <span>on the page</span> : <PlusIcon />}
          </div>
        ))}
        {matches.value.length === 0 && (
          <p class="quiet">
            {catalogue.value === undefined ? "Loading the pairs…" : `No pair of the exchange matches “${text.value}”.`}
          </p>
        )}
      </div>
    </div>
  );
}
