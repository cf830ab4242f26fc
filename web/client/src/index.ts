/** The client of Headwater. It delivers every event once and in order. */

export type { BackoffOptions } from "./backoff.js";
export { connect, Headwater } from "./client.js";
export { ClosedError, ConnectionError, ProblemError, RequestError, TokenError } from "./errors.js";
export type {
  Author,
  BookEvent,
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
export type { ClientEvents, Options, Pong, State } from "./options.js";
export type { ErrorCode, Frame, Welcome } from "./protocol.js";
export { type History, type HistoryQuery, Rest, type RestOptions, type Status } from "./rest.js";
export type { Gap } from "./sequence.js";
export type { SocketConstructor, SocketLike } from "./socket.js";
export type { SubscribeOptions, Subscription } from "./subscription.js";
export { canonical } from "./topic.js";
