/** The columns of the posts view. */

import { signal } from "@preact/signals";
import { canonical } from "headwater-client";
import { isStrings, persisted } from "../persisted";
import { address } from "../router";
import { rest, status } from "../session";

/** The columns of a first visit. */
const DEFAULT = ["mastodon/public", "mastodon/lang/en", "mastodon/lang/de"];

/** The most columns at the same time. */
export const MAX_COLUMNS = 6;

const linked = address.value.searchParams.getAll("c").map((key) => canonical(`mastodon/${key}`));

/** The topics of the columns, from left to right. */
export const columns = persisted<string[]>("columns", DEFAULT, isStrings);
if (linked.length > 0) columns.value = [...new Set(linked)].slice(0, MAX_COLUMNS);

/** Suggested topics: those that have a subscriber, and the servers. */
export const suggestions = signal<readonly string[]>([]);

/** Adds a column on the left. */
export function add(topic: string): void {
  columns.value = [topic, ...columns.value.filter((one) => one !== topic)].slice(0, MAX_COLUMNS);
}

/** Removes a column. */
export function remove(topic: string): void {
  columns.value = columns.value.filter((one) => one !== topic);
}

/** Returns the URL that shows these columns. */
export function shareUrl(): string {
  const search = new URLSearchParams(
    columns.value.map((topic) => ["c", decodeURIComponent(topic.replace("mastodon/", ""))]),
  );
  return `/posts?${search.toString().replace(/%2F/g, "/")}`;
}

/** Returns the title of a topic. */
export function titleOf(topic: string): string {
  const [, channel, key = ""] = topic.split("/");
  const name = decode(key);
  switch (channel) {
    case "public":
      return "All posts";
    case "tag":
      return `#${name}`;
    case "lang":
      return language(name);
    default:
      return name;
  }
}

/** Returns the topic of an input, or `undefined` if the input is invalid. */
export function topicOf(kind: string, text: string): string | undefined {
  const key = text.trim().replace(/^#/, "");
  if (kind === "public") return "mastodon/public";
  if (!key || /[\s/?#]/.test(key)) return undefined;
  if (kind === "lang" && !/^[a-z]{2,3}(-[a-z0-9]{1,8})*$/i.test(key)) return undefined;
  return canonical(`mastodon/${kind}/${encodeURIComponent(key)}`);
}

/** Loads the suggestions. */
export async function loadSuggestions(): Promise<void> {
  const found = await rest.topics("", "mastodon").catch(() => []);
  const servers = (status.value?.sources ?? []).filter(({ source }) => source !== "coinbase");
  suggestions.value = [
    ...new Set([...found.map(({ topic }) => topic), ...servers.map(({ source }) => `mastodon/server/${source}`)]),
  ];
}

function language(code: string): string {
  try {
    return new Intl.DisplayNames("en", { type: "language" }).of(code) ?? code;
  } catch {
    return code;
  }
}

function decode(key: string): string {
  try {
    return decodeURIComponent(key);
  } catch {
    return key;
  }
}
