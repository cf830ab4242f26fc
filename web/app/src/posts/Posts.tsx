/** The posts view: live columns. */

import { useSignal } from "@preact/signals";
import { useEffect } from "preact/hooks";
import { Plus } from "../icons";
import { go } from "../router";
import { Column } from "./Column";
import { add, columns, loadSuggestions, MOST, remove, share, suggestions, titleOf, topicOf } from "./columns";

const KINDS = [
  { kind: "tag", label: "Hashtag", hint: "rustlang" },
  { kind: "lang", label: "Language", hint: "en, pt-BR" },
  { kind: "server", label: "Server", hint: "mastodon.social" },
  { kind: "public", label: "All posts", hint: "" },
] as const;

/** The posts. */
export function Posts() {
  useEffect(() => void loadSuggestions(), []);
  useEffect(() => go(share(), { replace: true }), [columns.value]);
  return (
    <div class="posts">
      <div class="posts-bar">
        <h1 class="sr-only">Posts</h1>
        <AddColumn />
      </div>
      {columns.value.length === 0 ? (
        <section class="card notice">
          <h2>No columns</h2>
          <p>Add one above: a hashtag, a language or a server.</p>
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
  const wrong = useSignal("");
  const chosen = KINDS.find((one) => one.kind === kind.value) ?? KINDS[0];
  const full = columns.value.length >= MOST;
  const submit = (event: Event) => {
    event.preventDefault();
    const topic = topicOf(kind.value, text.value);
    if (!topic) {
      wrong.value = `That is no ${chosen.label.toLowerCase()}.`;
      return;
    }
    wrong.value = "";
    text.value = "";
    add(topic);
  };
  const offered = suggestions.value.filter((topic) => topic.startsWith(`mastodon/${kind.value}/`));
  return (
    <form class="add-column" onSubmit={submit}>
      <label>
        <span class="sr-only">Kind of column</span>
        <select
          value={kind.value}
          onChange={(event) => {
            kind.value = event.currentTarget.value;
            wrong.value = "";
          }}
        >
          {KINDS.map((one) => (
            <option key={one.kind} value={one.kind}>
              {one.label}
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
          aria-invalid={wrong.value !== ""}
          aria-describedby="column-wrong"
          autocomplete="off"
          autocapitalize="none"
          spellcheck={false}
          onInput={(event) => {
            text.value = event.currentTarget.value;
            wrong.value = "";
          }}
        />
      </label>
      <datalist id="column-suggestions">
        {offered.map((topic) => (
          <option key={topic} value={decodeURIComponent(topic.split("/")[2] ?? "")}>
            {titleOf(topic)}
          </option>
        ))}
      </datalist>
      <button type="submit" class="button" disabled={full} title={full ? `At most ${MOST} columns` : undefined}>
        <Plus /> Add<span class="wide"> column</span>
      </button>
      <span id="column-wrong" class="wrong" role="status">
        {wrong.value}
      </span>
    </form>
  );
}
