/** An in-memory server for tests of the client. It implements the minimum of `headwater.v1`. */

import type { SocketConstructor } from "../src/socket.js";

type Json = Record<string, unknown>;

/** The server's side of one connection. */
export class FakeSocket {
  readyState = 0;
  onopen: (() => void) | null = null;
  onmessage: ((event: { data: string }) => void) | null = null;
  onclose: ((event: { code: number; reason: string }) => void) | null = null;
  onerror: ((event: { message: string }) => void) | null = null;
  /** The messages of the client. */
  readonly received: Json[] = [];

  constructor(
    readonly server: FakeServer,
    readonly url: string,
    readonly protocols: string[] = [],
  ) {
    server.sockets.push(this);
    queueMicrotask(() => {
      if (server.handshakeError) {
        this.onerror?.({ message: server.handshakeError });
        this.cut();
        return;
      }
      this.readyState = 1;
      this.onopen?.();
    });
  }

  send(text: string): void {
    const message = JSON.parse(text) as Json;
    this.received.push(message);
    queueMicrotask(() => this.server.receive(this, message));
  }

  close(): void {
    this.readyState = 3;
  }

  /** Sends a message to the client. */
  reply(message: Json): void {
    if (this.readyState === 1) this.onmessage?.({ data: JSON.stringify(message) });
  }

  /** Sends `count` events; the first has the number `seq`. */
  push(topic: string, seq: number, count = 1): void {
    const events = Array.from({ length: count }, (_, index) => ({ type: "ticker", n: seq + index }));
    this.reply({ type: "events", frames: [{ topic, seq, at: "2026-11-22T10:00:00.000000Z", events }] });
  }

  /** Ends the connection without a close handshake. */
  cut(code = 1006): void {
    if (this.readyState === 3) return;
    this.readyState = 3;
    this.onclose?.({ code, reason: "" });
  }

  /** Returns the requests with an action. */
  requests(action: string): Json[] {
    return this.received.filter((message) => message["action"] === action);
  }
}

/** The server of all connections. */
export class FakeServer {
  readonly sockets: FakeSocket[] = [];
  /** The newest sequence number of each topic. */
  readonly heads = new Map<string, number>();
  /** The id of the log. */
  log = "log-1";
  /** Whether a `pong` has the newest numbers. */
  hasHeads = true;
  /** The error of every handshake; empty to accept. */
  handshakeError = "";
  /** Actions that the server does not answer. */
  readonly ignoredActions = new Set<string>();
  /** When the gateway closes the connections. */
  expiresAt = "";
  class = "anonymous";
  /** The lifetime of tokens, in milliseconds; 0 for a server that does not support `authenticate`. */
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
    if (!socket) throw new Error("no client has connected");
    return socket;
  }

  receive(socket: FakeSocket, message: Json): void {
    const { action, id } = message;
    if (this.ignoredActions.has(action as string)) return;
    const topics = (message["topics"] ?? []) as string[];
    const since = (message["since"] ?? {}) as Record<string, number>;
    switch (action) {
      case "hello":
        socket.reply({
          type: "welcome",
          id,
          log: this.log,
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
          socket.reply({ type: "error", id, code: "unknown_action", message: "unknown action" });
        } else if (message["token"] === "bad") {
          socket.reply({ type: "error", id, code: "unauthorized", message: "the token is invalid" });
        } else if (message["token"] === "other") {
          socket.reply({ type: "error", id, code: "forbidden", message: "the token belongs to another principal" });
        } else {
          const limits = { topics: 100, messagesPerSecond: 20 };
          socket.reply({
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
        const isOther = message["log"] !== undefined && message["log"] !== this.log;
        const valid = topics.filter((topic) => !topic.includes("bad"));
        for (const topic of topics.filter((topic) => !valid.includes(topic))) {
          socket.reply({ type: "error", id, code: "unknown_topic", message: "unknown topic", topic });
        }
        const subscribed = valid.map((topic) => {
          const seq = this.heads.get(topic) ?? 0;
          const after = since[topic];
          return after === undefined ? { topic, seq } : { topic, seq, recovered: !isOther && after <= seq };
        });
        if (valid.length > 0) socket.reply({ type: "subscribed", id, log: this.log, topics: subscribed });
        for (const topic of valid) {
          const after = since[topic];
          const head = this.heads.get(topic) ?? 0;
          if (after === undefined) continue;
          if (isOther || after > head) {
            const from = after < head ? after + 1 : Math.min(1, head);
            socket.reply({ type: "gap", topic, from, to: head, reason: "reset" });
          } else if (after < head) socket.push(topic, after + 1, head - after);
        }
        return;
      }
      case "unsubscribe":
        socket.reply({ type: "unsubscribed", id, topics });
        return;
      case "replay": {
        const { topic, from, to } = message as { topic: string; from: number; to: number };
        socket.push(topic, from, to - from + 1);
        return;
      }
      case "list":
        socket.reply({ type: "subscriptions", id, topics: ["a"], heads: Object.fromEntries(this.heads) });
        return;
      case "ping":
        socket.reply({
          type: "pong",
          id,
          at: new Date().toISOString(),
          ...(this.hasHeads && { heads: Object.fromEntries(this.heads) }),
        });
        return;
      default:
        socket.reply({ type: "error", id, code: "unknown_action", message: "unknown action" });
    }
  }

  #tokenExpiresAt(): string {
    return new Date(Date.now() + this.tokenLife).toISOString();
  }
}
