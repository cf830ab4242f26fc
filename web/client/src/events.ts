/** The events of each kind of topic. */

/** A `ticker` message of Coinbase, as the exchange sent it. Prices and sizes are decimal strings. */
export interface Ticker {
  type: "ticker";
  sequence: number;
  product_id: string;
  price: string;
  open_24h: string;
  volume_24h: string;
  low_24h: string;
  high_24h: string;
  volume_30d: string;
  best_bid: string;
  best_bid_size: string;
  best_ask: string;
  best_ask_size: string;
  side?: "buy" | "sell";
  time?: string;
  trade_id?: number;
  last_size?: string;
}

/** A trade on Coinbase. `side` is the side of the maker, so for `sell` the taker bought. */
export interface Match {
  type: "match" | "last_match";
  trade_id: number;
  maker_order_id?: string;
  taker_order_id?: string;
  side: "buy" | "sell";
  size: string;
  price: string;
  product_id: string;
  sequence?: number;
  time: string;
  /** Whether the server fetched the trade later because the stream had missed it. */
  backfilled?: boolean;
}

/** The best levels of an order book: price and size, best first. */
export interface BookSnapshot {
  type: "snapshot";
  product_id: string;
  bids: [price: string, size: string][];
  asks: [price: string, size: string][];
  time?: string;
}

/** Levels that changed. A size of zero removes the level. */
export interface BookUpdate {
  type: "l2update";
  product_id: string;
  changes: [side: "buy" | "sell", price: string, size: string][];
  time: string;
}

/** An event of an order book. */
export type BookEvent = BookSnapshot | BookUpdate;

/** The author of a post. */
export interface Author {
  /** `user@host`. */
  handle: string;
  /** The display name, as plain text. */
  name: string;
  avatar?: string;
  url?: string;
  bot: boolean;
}

/** An attachment of a post. */
export interface Media {
  type: "image" | "gifv" | "video" | "audio" | "unknown";
  url?: string;
  preview?: string;
  /** The description, as plain text. */
  alt?: string;
  width?: number;
  height?: number;
  blurhash?: string;
}

/** The poll of a post. */
export interface Poll {
  options: { title: string; votes?: number }[];
  multiple: boolean;
  votes: number;
  voters?: number;
  closesAt?: string;
  closed: boolean;
}

/** A preview of a page that a post links to. All texts are plain text. */
export interface Card {
  url: string;
  title: string;
  description?: string;
  image?: string;
  provider?: string;
}

/** An image that replaces `:shortcode:` in the text of a post and in the name of its author. */
export interface Emoji {
  shortcode: string;
  url: string;
}

/** A public post, new or edited. */
export interface Post {
  type: "post" | "post.edited";
  /** The ActivityPub URI: the same on every server that has the post. */
  id: string;
  url?: string;
  /** The host of the server that sent the post. */
  server: string;
  at: string;
  editedAt?: string;
  author: Author;
  /** Sanitized by the server. Sanitize it again before you insert it into a page. */
  html: string;
  text: string;
  /** Whether `html` and `text` are truncated. */
  truncated?: boolean;
  language?: string;
  tags: string[];
  mentions: string[];
  media: Media[];
  emojis?: Emoji[];
  poll?: Poll;
  card?: Card;
  /** The warning to show in place of the post at first, as plain text. */
  contentWarning?: string;
  sensitive: boolean;
  replyTo?: string;
  boosts: number;
  likes: number;
  replies: number;
}

/** The deletion of a post: a program that shows the post has to remove it. */
export interface PostDeleted {
  type: "post.deleted";
  id: string;
  server: string;
  at: string;
}

/** An event of a topic with posts. */
export type PostEvent = Post | PostDeleted;

/** The state of a source. */
export interface SourceState {
  source: string;
  state: "live" | "connecting" | "down" | "simulated";
  since: string;
  detail?: string;
}

/** The events of the topic `T`. */
export type EventOf<T extends string> = T extends `coinbase/ticker/${string}`
  ? Ticker
  : T extends `coinbase/matches/${string}`
    ? Match
    : T extends `coinbase/level2/${string}`
      ? BookEvent
      : T extends `mastodon/${string}`
        ? PostEvent
        : T extends "system/sources"
          ? SourceState
          : unknown;

/** An event with its position in the topic. */
export interface Delivery<E = unknown> {
  /** The topic, in canonical form. */
  topic: string;
  /** The sequence number in the topic. Numbers start at 1 and are contiguous. */
  seq: number;
  /** When the server assigned the sequence number: RFC 3339 with microseconds. */
  at: string;
  event: E;
}
