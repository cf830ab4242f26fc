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

/** A trade on Coinbase. `side` is the maker's: a `sell` is a trade that somebody bought. */
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
  /** Fetched from REST, because the stream had missed it. */
  backfilled?: boolean;
}

/** The best levels of a book: price and size, best first. */
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

/** An event of a book's topic. */
export type Book = BookSnapshot | BookUpdate;

/** Who wrote a post. */
export interface Author {
  /** `user@host`. */
  handle: string;
  /** The name they go by; plain text. */
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
  /** What it shows; plain text. */
  alt?: string;
  width?: number;
  height?: number;
  blurhash?: string;
}

/** The question that a post asks. */
export interface Poll {
  options: { title: string; votes?: number }[];
  multiple: boolean;
  votes: number;
  voters?: number;
  closesAt?: string;
  closed: boolean;
}

/** A preview of a page that a post links to. All texts are plain. */
export interface Card {
  url: string;
  title: string;
  description?: string;
  image?: string;
  provider?: string;
}

/** A picture that stands for `:shortcode:` in a post's text and in its author's name. */
export interface Emoji {
  shortcode: string;
  url: string;
}

/** A public post, new or as its author changed it. */
export interface Post {
  type: "post" | "post.edited";
  /** The ActivityPub URI: the same on every server that has the post. */
  id: string;
  url?: string;
  /** Host of the server that told of it. */
  server: string;
  at: string;
  editedAt?: string;
  author: Author;
  /** Sanitised at the source. Sanitise it again where you insert it into a page. */
  html: string;
  text: string;
  /** Whether `html` and `text` are only the beginning. */
  truncated?: boolean;
  language?: string;
  tags: string[];
  mentions: string[];
  media: Media[];
  emojis?: Emoji[];
  poll?: Poll;
  card?: Card;
  /** What to say before the post is shown; plain text. */
  contentWarning?: string;
  sensitive: boolean;
  replyTo?: string;
  boosts: number;
  likes: number;
  replies: number;
}

/** The end of a post: whatever shows it has to stop doing so. */
export interface PostDeleted {
  type: "post.deleted";
  id: string;
  server: string;
  at: string;
}

/** An event of a topic of posts. */
export type PostEvent = Post | PostDeleted;

/** A change of a source's state. */
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
      ? Book
      : T extends `mastodon/${string}`
        ? PostEvent
        : T extends "system/sources"
          ? SourceState
          : unknown;

/** An event, where it stands in its topic, and when it got its number. */
export interface Delivery<E = unknown> {
  /** The topic, in canonical spelling. */
  topic: string;
  /** Its number in the topic: the first is 1, and none is left out. */
  seq: number;
  /** When the server numbered it, RFC 3339 with microseconds. */
  at: string;
  event: E;
}
