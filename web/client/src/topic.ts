/** Topics in the spelling that the server uses. */

/** Percent-encodes all but `[A-Za-z0-9._:@-]`. */
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
 * Returns the one spelling that the server uses for a topic: hashtags are lower-cased and in Unicode's NFKC form, and
 * what is not `[A-Za-z0-9._:@-]` is percent-encoded. What is no topic comes back as it is, for the server to refuse.
 */
export function canonical(topic: string): string {
  const [source, channel, key, ...rest] = topic.split("/").map(decode);
  if (key === undefined || rest.length > 0) return topic;
  if (source !== "mastodon") return `${source}/${channel}/${encode(key)}`;
  const folded = channel === "tag" ? key.normalize("NFKC").toLowerCase().normalize("NFKC") : key.toLowerCase();
  return `mastodon/${channel}/${encode(folded)}`;
}

/** Whether a subscriber to a topic needs the newest snapshot before the events that follow it. */
export function hasSnapshots(topic: string): boolean {
  return topic.startsWith("coinbase/level2/");
}
