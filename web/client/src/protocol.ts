/** The messages of the WebSocket protocol `headwater.v1`. */

/** The subprotocol's name. */
export const SUBPROTOCOL = "headwater.v1";

/** Most topics that one `subscribe` or `unsubscribe` may name. */
export const TOPICS_PER_MESSAGE = 100;

/** Most events that one `replay` may ask for. */
export const EVENTS_PER_REPLAY = 10_000;

/** Most events that `last` may ask for. */
export const MAX_LAST = 1_000;

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
  | { action: "subscribe"; topics: string[]; since?: Record<string, number>; last?: number }
  | { action: "unsubscribe"; topics: string[] }
  | { action: "list" }
  | { action: "replay"; topic: string; from: number; to: number }
  | { action: "authenticate"; token: string }
  | { action: "ping" };

/** Who the server says we are. */
export interface Welcome {
  connectionId: string;
  connectionToken: string;
  principal: string;
  class: string;
  limits: { topics: number; messagesPerSecond: number };
  /** When the gateway ends the connection. */
  expiresAt: string;
  /** When the token expires, and the connection ends unless another was shown by then. */
  tokenExpiresAt?: string;
}

/** Events of one topic: the first has the number `seq`, the rest count up by one. */
export interface Frame {
  topic: string;
  seq: number;
  at: string;
  events: unknown[];
}

/** Events that will not come. */
export interface GapMessage {
  topic: string;
  from: number;
  to: number;
  reason: "expired" | "lagging";
}

/** A message from the server. */
export type Message =
  | ({ type: "welcome"; id?: string } & Welcome)
  | ({ type: "authenticated"; id?: string } & Pick<Welcome, "principal" | "class" | "limits" | "tokenExpiresAt">)
  | { type: "subscribed"; id?: string; topics: { topic: string; seq: number; recovered?: boolean }[] }
  | { type: "unsubscribed"; id?: string; topics: string[] }
  | { type: "subscriptions"; id?: string; topics: string[] }
  | { type: "events"; frames: Frame[] }
  | ({ type: "gap" } & GapMessage)
  | { type: "pong"; id?: string; at: string }
  | { type: "error"; id?: string; code: ErrorCode; message: string; topic?: string };

/** API Gateway's own frames: they have no `type`. */
export interface GatewayMessage {
  message: string;
  connectionId?: string;
  requestId?: string;
}

/** Returns what a text message is; `undefined` for what is neither the server's nor the gateway's. */
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
