/** The settings and the events of a client. */

import type { BackoffOptions } from "./backoff.js";
import type { Frame, Welcome } from "./protocol.js";
import type { Gap } from "./sequence.js";
import type { SocketConstructor } from "./socket.js";

/** The state of the connection. */
export type State =
  /** Nothing has been requested yet. */
  | "idle"
  | "connecting"
  | "open"
  /** Waiting before the next attempt. */
  | "waiting"
  /** The page is hidden. */
  | "paused"
  | "closed";

/** The settings of a client. All have defaults. */
export interface Options {
  /** A JWT, or a function that returns one for each connection. Without one the connection is anonymous. */
  token?: string | (() => string | undefined | Promise<string | undefined>);
  /** The bounds of the waits between attempts, in milliseconds, with full jitter. By default 500 ms and 30 s. */
  backoff?: Partial<BackoffOptions>;
  /** How long the server may be silent before the client sends a ping, in milliseconds. By default 60 s. */
  keepAlive?: number;
  /**
   * How often the client compares its newest events with the server's while a topic is quiet, in milliseconds, with
   * jitter. By default 30 s; 0 for never. This finds lost events that no later event reveals.
   */
  checkEvery?: number;
  /** How long before the gateway closes the connection it is renewed, in milliseconds. By default 2 to 5 minutes. */
  renewBefore?: number;
  /** How long the page may be hidden before the client disconnects, in milliseconds. By default it does not. */
  pauseWhenHidden?: number;
  /** The WebSocket implementation. By default the platform's. */
  WebSocket?: SocketConstructor;
  /** The random number generator of the jitter. By default `Math.random`. */
  random?: () => number;
}

/** The events of a client. */
export interface ClientEvents {
  /** The state of the connection has changed. In the state `waiting`, `retryAt` is the time of the next attempt. */
  state: { state: State; retryAt?: number; error?: Error };
  /** The server has assigned the identity and the limits: after each connect and each authentication. */
  welcome: Welcome;
  /** An error that no promise or `onError` reports. It does not end the client. */
  error: Error;
  /** Events that cannot be delivered to a subscription. */
  gap: Gap;
  /** A frame has arrived; its duplicates have not been dropped. */
  frame: Frame;
  /** A message with events has arrived. `size` is in characters. */
  message: { events: number; frames: number; size: number };
}

/** The round trip of a ping, and how far the server's clock is ahead of the local clock, in milliseconds. */
export interface Pong {
  roundTrip: number;
  clockAhead: number;
}
