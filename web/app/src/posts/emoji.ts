/** Custom emoji in text. */

import type { Emoji } from "headwater-client";

/** Splits a text into strings and emoji. */
export function split(text: string, emojis: readonly Emoji[]): (string | Emoji)[] {
  if (emojis.length === 0 || !text.includes(":")) return [text];
  const safe = emojis.filter(({ url }) => url.startsWith("https:"));
  const known = new Map(safe.map((emoji) => [emoji.shortcode, emoji]));
  return text
    .split(/:([\w-]+):/)
    .map((part, index) => (index % 2 === 0 ? part : (known.get(part) ?? `:${part}:`)))
    .filter((part) => part !== "");
}
