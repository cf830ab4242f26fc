/** Sanitizes the markup of posts. The server has sanitized it already, but the page does not rely on that. */

import DOMPurify from "dompurify";
import type { Emoji } from "headwater-client";
import { split } from "./emoji";

/** The elements of Mastodon's markup. */
const TAGS = [
  "a",
  "b",
  "blockquote",
  "br",
  "code",
  "del",
  "em",
  "i",
  "li",
  "ol",
  "p",
  "pre",
  "span",
  "strong",
  "sub",
  "sup",
  "u",
  "ul",
];

/** The classes that the page styles: hidden or shortened parts of a link, mentions and hashtags. */
const CLASSES = new Set(["invisible", "ellipsis", "mention", "hashtag"]);

DOMPurify.addHook("afterSanitizeAttributes", (node) => {
  if (node.hasAttribute("class")) {
    const allowed = [...node.classList].filter((name) => CLASSES.has(name));
    node.className = allowed.join(" ");
  }
  if (node.nodeName === "A") {
    node.setAttribute("target", "_blank");
    node.setAttribute("rel", "noopener noreferrer nofollow ugc");
  }
});

/** Returns the sanitized markup of a post, with its custom emoji. */
export function sanitize(html: string, emojis: readonly Emoji[]): DocumentFragment {
  const fragment = DOMPurify.sanitize(html, {
    ALLOWED_TAGS: TAGS,
    ALLOWED_ATTR: ["href", "class", "lang", "dir"],
    ALLOWED_URI_REGEXP: /^https?:\/\//i,
    ALLOW_DATA_ATTR: false,
    RETURN_DOM_FRAGMENT: true,
  });
  if (emojis.length > 0) {
    const walker = document.createTreeWalker(fragment, NodeFilter.SHOW_TEXT);
    const texts: Text[] = [];
    while (walker.nextNode()) texts.push(walker.currentNode as Text);
    for (const text of texts) text.replaceWith(...split(text.data, emojis).map(toNode));
  }
  return fragment;
}

function toNode(part: string | Emoji): Node {
  if (typeof part === "string") return document.createTextNode(part);
  const image = document.createElement("img");
  image.className = "emoji";
  image.alt = `:${part.shortcode}:`;
  image.title = image.alt;
  image.loading = "lazy";
  image.referrerPolicy = "no-referrer";
  image.src = part.url;
  return image;
}
