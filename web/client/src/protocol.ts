/** The messages of the WebSocket protocol `headwater.v1`. */

/** The subprotocol's name. */
export const SUBPROTOCOL = "headwater.v1";

/** The most topics in one `subscribe` or `unsubscribe`. */
export const TOPICS_PER_MESSAGE = 100;

/** The most events that one `replay` may request. */
export const EVENTS_PER_REPLAY = 10_000;

/** The codes of the server's errors. */
export type ErrorCode =
  | "bad_request"
  | "unknown_action"
  | "unknown_topic"
  | "forbidden"
  | "unauthorized"
  | "expired"
  | "too_many_topics"
  | "rate_limited"
  | "too_large"
  | "unavailable"
  | "internal";

/** A message to the server. */
export type Request =
  | { action: "hello" }
  | { action: "subscribe"; topics: string[]; since?: Record<string, number>; log?: string; last?: number }
  | { action: "unsubscribe"; topics: string[] }
  | { action: "list" }
  | { action: "replay"; topic: string; from: number; to: number }
  | { action: "authenticate"; token: string }
  | { action: "ping" };

/** The identity and the limits of the connection, as assigned by the server. */
export interface Welcome {
  /** The id of the server's log, which all sequence numbers belong to. */
  log: string;
  connectionId: string;
  connectionToken: string;
  principal: string;
  class: string;
  limits: { topics: number; messagesPerSecond: number };
  /** When the gateway closes the connection. */
  expiresAt: string;
  /** When the token expires. The server then closes the connection, unless it has received a new token. */
  tokenExpiresAt?: string;
}

/** Consecutive events of one topic. `seq` is the sequence number of the first. */
export interface Frame {
  topic: string;
  seq: number;
  at: string;
  events: unknown[];
}

/** Events that the server will not send. With reason `reset`, the next event has the number `to + 1`. */
export interface GapMessage {
  topic: string;
  from: number;
  to: number;
  reason: "expired" | "lagging" | "lost" | "reset";
}

/** A message from the server. */
export type Message =
  | ({ type: "welcome"; id?: string } & Welcome)
  | ({ type: "authenticated"; id?: string } & Pick<Welcome, "principal" | "class" | "limits" | "tokenExpiresAt">)
  | { type: "subscribed"; id?: string; log: string; topics: { topic: string; seq: number; recovered?: boolean }[] }
  | { type: "unsubscribed"; id?: string; topics: string[] }
  | { type: "subscriptions"; id?: string; topics: string[]; heads: Record<string, number> }
  | { type: "events"; frames: Frame[] }
  | ({ type: "gap" } & GapMessage)
  | { type: "pong"; id?: string; at: string; heads?: Record<string, number> }
  | { type: "error"; id?: string; code: ErrorCode; message: string; topic?: string };

/** A message of API Gateway itself, which has no `type`. */
export interface GatewayMessage {
  message: string;
  connectionId?: string;
  requestId?: string;
}

/** Parses a text message. Returns `undefined` if it is from neither the server nor the gateway. */
export function parse(text: string): Message | GatewayMessage | undefined {
  let value: unknown;
  try {
    value = JSON.parse(text);
  } catch {
    return undefined;
  }
  if (typeof value !== "object" || value === null) return undefined;
  if ("type" in value && typeof value.type === "string") return value as Message;
  if ("message" in value && typeof value.message === "string") return value as GatewayMessage;
  return undefined;
}
