/** Headwater's client: public posts and market data, every event once and in order. */

export type { BackoffOptions } from "./backoff.js";
export { type ClientEvents, connect, Headwater, type Options, type Pong, type State } from "./client.js";
export { ClosedError, ConnectionError, ProblemError, RequestError, TokenError } from "./errors.js";
export type {
  Author,
  Book,
  BookSnapshot,
  BookUpdate,
  Card,
  Delivery,
  Emoji,
  EventOf,
  Match,
  Media,
  Poll,
  Post,
  PostDeleted,
  PostEvent,
  SourceState,
  Ticker,
} from "./events.js";
export type { ErrorCode, Frame, Welcome } from "./protocol.js";
export { type History, type HistoryQuery, Rest, type RestOptions, type Status } from "./rest.js";
export type { Gap } from "./sequence.js";
export type { SocketConstructor, SocketLike } from "./socket.js";
export type { SubscribeOptions, Subscription } from "./subscription.js";
export { canonical } from "./topic.js";
