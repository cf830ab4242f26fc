/** The canonical form of topics. */

/** Percent-encodes all characters except `[A-Za-z0-9._:@-]`. */
function encode(key: string): string {
  const encoded = encodeURIComponent(key).replace(/%3A/g, ":").replace(/%40/g, "@");
  return encoded.replace(/[!~*'()]/g, (char) => `%${char.charCodeAt(0).toString(16).toUpperCase()}`);
}

function decode(part: string): string {
  try {
    return decodeURIComponent(part);
  } catch {
    return part;
  }
}

/**
 * Returns the form of a topic that the server uses: the keys of Mastodon topics are in lower case, hashtags also in
 * Unicode's NFKC form, and all characters except `[A-Za-z0-9._:@-]` are percent-encoded. An invalid topic is returned
 * unchanged, so that the server rejects it.
 */
export function canonical(topic: string): string {
  const [source, channel, key, ...rest] = topic.split("/").map(decode);
  if (key === undefined || rest.length > 0) return topic;
  if (source !== "mastodon") return `${source}/${channel}/${encode(key)}`;
  const folded = channel === "tag" ? key.normalize("NFKC").toLowerCase().normalize("NFKC") : key.toLowerCase();
  return `mastodon/${channel}/${encode(folded)}`;
}

/** Returns whether the events of a topic are updates of a snapshot, which a subscriber needs first. */
export function hasSnapshots(topic: string): boolean {
  return topic.startsWith("coinbase/level2/");
}
