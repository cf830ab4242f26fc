/** A server in memory that speaks `headwater.v1`, for tests of the client: it does as little by itself as can be. */

import type { SocketConstructor } from "../src/socket.js";

type Json = Record<string, unknown>;

/** One connection, as the server sees it. */
export class FakeSocket {
  readyState = 0;
  onopen: (() => void) | null = null;
  onmessage: ((event: { data: string }) => void) | null = null;
  onclose: ((event: { code: number; reason: string }) => void) | null = null;
  onerror: ((event: { message: string }) => void) | null = null;
  /** What the client has sent. */
  readonly heard: Json[] = [];

  constructor(
    readonly server: FakeServer,
    readonly url: string,
    readonly protocols: string[] = [],
  ) {
    server.sockets.push(this);
    queueMicrotask(() => {
      if (server.refuses) {
        this.onerror?.({ message: server.refuses });
        this.cut();
        return;
      }
      this.readyState = 1;
      this.onopen?.();
    });
  }

  send(text: string): void {
    const message = JSON.parse(text) as Json;
    this.heard.push(message);
    queueMicrotask(() => this.server.hear(this, message));
  }

  close(): void {
    this.readyState = 3;
  }

  /** Says something to the client. */
  say(message: Json): void {
    if (this.readyState === 1) this.onmessage?.({ data: JSON.stringify(message) });
  }

  /** Sends events with the numbers from `seq` on. */
  push(topic: string, seq: number, count = 1): void {
    const events = Array.from({ length: count }, (_, index) => ({ type: "ticker", n: seq + index }));
    this.say({ type: "events", frames: [{ topic, seq, at: "2026-11-22T10:00:00.000000Z", events }] });
  }

  /** Ends the connection without a goodbye. */
  cut(code = 1006): void {
    if (this.readyState === 3) return;
    this.readyState = 3;
    this.onclose?.({ code, reason: "" });
  }

  /** The requests with an action. */
  requests(action: string): Json[] {
    return this.heard.filter((message) => message["action"] === action);
  }
}

/** The other end of all connections. */
export class FakeServer {
  readonly sockets: FakeSocket[] = [];
  /** By topic, the newest number of the log. */
  readonly heads = new Map<string, number>();
  /** What the handshake fails with. */
  refuses = "";
  /** Actions that are not answered. */
  readonly ignores = new Set<string>();
  /** When connections end. */
  expiresAt = "";
  class = "anonymous";
  /** How long tokens are good, in milliseconds, for a server that takes them over an open connection. */
  tokenLife = 0;
  readonly WebSocket: SocketConstructor;

  constructor() {
    const server = this;
    this.WebSocket = class extends FakeSocket {
      constructor(url: string, protocols?: string[]) {
        super(server, url, protocols);
      }
    } as unknown as SocketConstructor;
  }

  /** The newest connection. */
  get socket(): FakeSocket {
    const socket = this.sockets.at(-1);
    if (!socket) throw new Error("nobody has connected");
    return socket;
  }

  hear(socket: FakeSocket, message: Json): void {
    const { action, id } = message;
    if (this.ignores.has(action as string)) return;
    const topics = (message["topics"] ?? []) as string[];
    const since = (message["since"] ?? {}) as Record<string, number>;
    switch (action) {
      case "hello":
        socket.say({
          type: "welcome",
          id,
          connectionId: `c${this.sockets.length}`,
          connectionToken: "t",
          principal: "p",
          class: this.class,
          limits: { topics: 50, messagesPerSecond: 10 },
          expiresAt: this.expiresAt,
          ...(this.tokenLife > 0 && { tokenExpiresAt: this.#tokenExpiresAt() }),
        });
        return;
      case "authenticate":
        if (this.tokenLife === 0) {
          socket.say({ type: "error", id, code: "unknown_action", message: "no such action" });
        } else if (message["token"] === "bad") {
          socket.say({ type: "error", id, code: "unauthorized", message: "the token is not good" });
        } else if (message["token"] === "other") {
          socket.say({ type: "error", id, code: "forbidden", message: "the token is somebody else's" });
        } else {
          const limits = { topics: 100, messagesPerSecond: 20 };
          socket.say({
            type: "authenticated",
            id,
            principal: "p",
            class: this.class,
            limits,
            tokenExpiresAt: this.#tokenExpiresAt(),
          });
        }
        return;
      case "subscribe": {
        const good = topics.filter((topic) => !topic.includes("bad"));
        for (const topic of topics.filter((topic) => !good.includes(topic))) {
          socket.say({ type: "error", id, code: "unknown_topic", message: "no such topic", topic });
        }
        const subscribed = good.map((topic) => {
          const seq = this.heads.get(topic) ?? 0;
          const after = since[topic];
          return after === undefined ? { topic, seq } : { topic, seq, recovered: after <= seq };
        });
        if (good.length > 0) socket.say({ type: "subscribed", id, topics: subscribed });
        for (const topic of good) {
          const after = since[topic];
          const head = this.heads.get(topic) ?? 0;
          if (after !== undefined && after < head) socket.push(topic, after + 1, head - after);
        }
        return;
      }
      case "unsubscribe":
        socket.say({ type: "unsubscribed", id, topics });
        return;
      case "replay": {
        const { topic, from, to } = message as { topic: string; from: number; to: number };
        socket.push(topic, from, to - from + 1);
        return;
      }
      case "list":
        socket.say({ type: "subscriptions", id, topics: ["a"] });
        return;
      case "ping":
        socket.say({ type: "pong", id, at: new Date().toISOString() });
        return;
      default:
        socket.say({ type: "error", id, code: "unknown_action", message: "no such action" });
    }
  }

  #tokenExpiresAt(): string {
    return new Date(Date.now() + this.tokenLife).toISOString();
  }
}
