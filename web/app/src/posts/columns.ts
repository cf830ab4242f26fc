/** Which columns the reader has. */

import { signal } from "@preact/signals";
import { canonical } from "headwater-client";
import { isTexts, kept } from "../kept";
import { address } from "../router";
import { rest, status } from "../session";

/** What a first visitor sees. */
const DEFAULT = ["mastodon/public", "mastodon/lang/en", "mastodon/lang/de"];

/** Most columns at once. */
export const MOST = 6;

const linked = address.value.searchParams.getAll("c").map((key) => canonical(`mastodon/${key}`));

/** The topics of the columns, from left to right. */
export const columns = kept<string[]>("columns", DEFAULT, isTexts);
if (linked.length > 0) columns.value = [...new Set(linked)].slice(0, MOST);

/** Topics that somebody follows already, as suggestions. */
export const suggestions = signal<readonly string[]>([]);

/** Adds a column in front. */
export function add(topic: string): void {
  columns.value = [topic, ...columns.value.filter((one) => one !== topic)].slice(0, MOST);
}

/** Removes a column. */
export function remove(topic: string): void {
  columns.value = columns.value.filter((one) => one !== topic);
}

/** The address that shows these columns to somebody else. */
export function share(): string {
  const search = new URLSearchParams(
    columns.value.map((topic) => ["c", decodeURIComponent(topic.replace("mastodon/", ""))]),
  );
  return `/posts?${search.toString().replace(/%2F/g, "/")}`;
}

/** What a person calls a topic. */
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

/** Returns the topic that a reader means; `undefined` for what cannot be one. */
export function topicOf(kind: string, text: string): string | undefined {
  const key = text.trim().replace(/^#/, "");
  if (kind === "public") return "mastodon/public";
  if (!key || /[\s/?#]/.test(key)) return undefined;
  if (kind === "lang" && !/^[a-z]{2,3}(-[a-z0-9]{1,8})*$/i.test(key)) return undefined;
  return canonical(`mastodon/${kind}/${encodeURIComponent(key)}`);
}

/** Reads what can be suggested. */
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
