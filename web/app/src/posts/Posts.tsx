/** The posts view: live columns. */

import { useSignal } from "@preact/signals";
import { useEffect } from "preact/hooks";
import { PlusIcon } from "../icons";
import { go } from "../router";
import { Column } from "./Column";
import { add, columns, loadSuggestions, MAX_COLUMNS, remove, shareUrl, suggestions, titleOf, topicOf } from "./columns";

const KINDS = [
  { kind: "tag", label: "Hashtag", hint: "rustlang" },
  { kind: "lang", label: "Language", hint: "en, pt-BR" },
  { kind: "server", label: "Server", hint: "mastodon.social" },
  { kind: "public", label: "All posts", hint: "" },
] as const;

/** The view. */
export function Posts() {
  useEffect(() => void loadSuggestions(), []);
  useEffect(() => go(shareUrl(), { replace: true }), [columns.value]);
  return (
    <div class="posts">
      <div class="posts-bar">
        <h1 class="sr-only">Posts</h1>
        <AddColumn />
      </div>
      {columns.value.length === 0 ? (
        <section class="card notice">
          <h2>No columns</h2>
          <p>To add a column, enter a hashtag, a language or a server above.</p>
        </section>
      ) : (
        <div class="columns">
          {columns.value.map((topic) => (
            <Column key={topic} topic={topic} onRemove={() => remove(topic)} />
          ))}
        </div>
      )}
    </div>
  );
}

function AddColumn() {
  const kind = useSignal<string>("tag");
  const text = useSignal("");
  const failure = useSignal("");
  const chosen = KINDS.find((option) => option.kind === kind.value) ?? KINDS[0];
  const full = columns.value.length >= MAX_COLUMNS;
  const submit = (event: Event) => {
    event.preventDefault();
    const topic = topicOf(kind.value, text.value);
    if (!topic) {
      failure.value = `This is not a valid ${chosen.label.toLowerCase()}.`;
      return;
    }
    failure.value = "";
    text.value = "";
    add(topic);
  };
  const options = suggestions.value.filter((topic) => topic.startsWith(`mastodon/${kind.value}/`));
  return (
    <form class="add-column" onSubmit={submit}>
      <label>
        <span class="sr-only">Kind of column</span>
        <select
          value={kind.value}
          onChange={(event) => {
            kind.value = event.currentTarget.value;
            failure.value = "";
          }}
        >
          {KINDS.map((option) => (
            <option key={option.kind} value={option.kind}>
              {option.label}
            </option>
          ))}
        </select>
      </label>
      <label class="grow">
        <span class="sr-only">{chosen.label}</span>
        <input
          type="text"
          list="column-suggestions"
          placeholder={chosen.hint}
          disabled={kind.value === "public"}
          value={text.value}
          aria-invalid={failure.value !== ""}
          aria-describedby="column-failure"
          autocomplete="off"
          autocapitalize="none"
          spellcheck={false}
          onInput={(event) => {
            text.value = event.currentTarget.value;
            failure.value = "";
          }}
        />
      </label>
      <datalist id="column-suggestions">
        {options.map((topic) => (
          <option key={topic} value={decodeURIComponent(topic.split("/")[2] ?? "")}>
            {titleOf(topic)}
          </option>
        ))}
      </datalist>
      <button type="submit" class="button" disabled={full} title={full ? `At most ${MAX_COLUMNS} columns` : undefined}>
        <PlusIcon /> Add<span class="wide"> column</span>
      </button>
      <span id="column-failure" class="wrong" role="status">
        {failure.value}
      </span>
    </form>
  );
}
