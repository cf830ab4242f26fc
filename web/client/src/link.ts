/** One WebSocket connection, from its handshake to its end. */

import { ConnectionError, RequestError } from "./errors.js";
import {
  type Frame,
  type GapMessage,
  type Message,
  parse,
  type Request,
  SUBPROTOCOL,
  type Welcome,
} from "./protocol.js";
import type { SocketConstructor, SocketLike } from "./socket.js";

/** How long the handshake and the response to a request may take. */
const REQUEST_TIMEOUT_MS = 15_000;

/** How long the response to a keep-alive ping may take. */
const PONG_TIMEOUT_MS = 10_000;

/** How long nothing is sent after the server has reported a rate limit. */
const RATE_LIMIT_PAUSE_MS = 1_000;

/** Messages per second, until the server has reported its limit. */
const DEFAULT_RATE = 10;

const OPEN = 1;

/** The callbacks of a link. */
export interface LinkEvents {
  frames(frames: Frame[], characters: number): void;
  gap(gap: GapMessage): void;
  /** A `subscribed` message. */
  subscribed(id: string, log: string, topics: { topic: string; seq: number; recovered?: boolean }[]): void;
  /** The newest number of each subscribed topic. */
  heads(heads: Record<string, number>): void;
  /** An error that no `request` waits for. */
  rejected(id: string | undefined, error: RequestError): void;
  welcome(welcome: Welcome): void;
  /** A message of API Gateway itself. */
  gatewayMessage(message: string): void;
}

interface PendingRequest {
  request: Request;
  resolve(message: Message): void;
  reject(error: Error): void;
  timer: ReturnType<typeof setTimeout>;
}

/** The last request id. Ids are unique across links, because two links are open during a takeover. */
let lastId = 0;

/** An open connection. */
export class Link {
  /** Resolves with the reason when the connection has ended. */
  readonly closed: Promise<ConnectionError>;
  readonly #socket: SocketLike;
  readonly #events: LinkEvents;
  readonly #keepAliveMs: number;
  readonly #pending = new Map<string, PendingRequest>();
  #outbox: string[] = [];
  #rate = DEFAULT_RATE;
  #tokens = DEFAULT_RATE;
  #refilledAt = Date.now();
  #flushTimer: ReturnType<typeof setTimeout> | undefined;
  #receivedAt = Date.now();
  #keepAliveTimer: ReturnType<typeof setTimeout> | undefined;
  #end: (reason: ConnectionError) => void = () => {};
  #ended = false;

  private constructor(socket: SocketLike, events: LinkEvents, keepAliveMs: number) {
    this.#socket = socket;
    this.#events = events;
    this.#keepAliveMs = keepAliveMs;
    this.closed = new Promise((resolve) => {
      this.#end = resolve;
    });
  }

  /** Connects. Rejects with the reason if the handshake fails. */
  static async open(
    Socket: SocketConstructor,
    url: string,
    token: string | undefined,
    events: LinkEvents,
    keepAliveMs: number,
  ): Promise<Link> {
    const protocols = token === undefined ? [SUBPROTOCOL] : [SUBPROTOCOL, `bearer.${token}`];
    const socket = new Socket(url, protocols);
    const link = new Link(socket, events, keepAliveMs);
    let detail = "";
    socket.onerror = (event: { message?: string }) => {
      detail = event.message ?? "";
    };
    socket.onclose = (event: { code?: number; reason?: string }) => {
      const reason = event.reason || detail;
      const code = event.code ?? 1006;
      link.#stop(new ConnectionError(`the connection ended (${code})${reason ? `: ${reason}` : ""}`, code));
    };
    socket.onmessage = (event: { data: unknown }) => link.#receive(event.data);
    const opened = new Promise<void>((resolve) => {
      socket.onopen = () => resolve();
    });
    const timeout = setTimeout(() => link.close("the handshake took too long"), REQUEST_TIMEOUT_MS);
    const failed = await Promise.race([opened, link.closed]);
    clearTimeout(timeout);
    if (failed) throw failed;
    link.#receivedAt = Date.now();
    link.#schedule();
    return link;
  }

  /** Whether the connection has not ended. */
  get isOpen(): boolean {
    return !this.#ended;
  }

  /** Sends a request whose response, if any, goes to the callbacks. Returns its id. */
  send(request: Request): string {
    lastId += 1;
    const id = `${lastId}`;
    this.#outbox.push(JSON.stringify({ ...request, id }));
    this.#flush();
    return id;
  }

  /** Sends a request and returns its response. */
  request(request: Request): Promise<Message> {
    return new Promise((resolve, reject) => {
      const id = this.send(request);
      const timer = setTimeout(() => {
        this.#pending.delete(id);
        reject(new ConnectionError(`the server did not answer ${request.action} in time`));
      }, REQUEST_TIMEOUT_MS);
      this.#pending.set(id, { request, resolve, reject, timer });
    });
  }

  /** Sends a ping, and closes the connection if the server sends nothing in time. */
  check(): void {
    if (this.#ended) return;
    const sentAt = Date.now();
    this.send({ action: "ping" });
    clearTimeout(this.#keepAliveTimer);
    this.#keepAliveTimer = setTimeout(() => {
      if (this.#receivedAt < sentAt) this.close("the server is silent");
      else this.#schedule();
    }, PONG_TIMEOUT_MS);
  }

  /** Closes the connection. */
  close(reason = "closed"): void {
    if (this.#ended) return;
    try {
      this.#socket.close(1000);
    } catch {
      // The socket was never open.
    }
    // The close event of a dead connection can take minutes.
    this.#stop(new ConnectionError(reason, 1000));
  }

  #stop(reason: ConnectionError): void {
    if (this.#ended) return;
    this.#ended = true;
    clearTimeout(this.#keepAliveTimer);
    clearTimeout(this.#flushTimer);
    this.#outbox = [];
    for (const { reject, timer } of this.#pending.values()) {
      clearTimeout(timer);
      reject(reason);
    }
    this.#pending.clear();
    this.#end(reason);
  }

  #schedule(): void {
    clearTimeout(this.#keepAliveTimer);
    const silence = Date.now() - this.#receivedAt;
    this.#keepAliveTimer = setTimeout(
      () => {
        if (Date.now() - this.#receivedAt >= this.#keepAliveMs) this.check();
        else this.#schedule();
      },
      Math.max(this.#keepAliveMs - silence, 10),
    );
  }

  /** Sends queued messages, within the rate limit of the server. */
  #flush(): void {
    if (this.#ended || this.#flushTimer !== undefined) return;
    const now = Date.now();
    this.#tokens = Math.min(this.#rate, this.#tokens + ((now - this.#refilledAt) / 1000) * this.#rate);
    this.#refilledAt = now;
    while (this.#outbox.length > 0 && this.#tokens >= 1 && this.#socket.readyState === OPEN) {
      const text = this.#outbox.shift();
      if (text !== undefined) this.#socket.send(text);
      this.#tokens -= 1;
    }
    if (this.#outbox.length > 0) this.#flushIn(((1 - this.#tokens) / this.#rate) * 1000);
  }

  #flushIn(ms: number): void {
    clearTimeout(this.#flushTimer);
    this.#flushTimer = setTimeout(
      () => {
        this.#flushTimer = undefined;
        this.#flush();
      },
      Math.max(ms, 1),
    );
  }

  #receive(data: unknown): void {
    if (this.#ended || typeof data !== "string") return;
    this.#receivedAt = Date.now();
    const message = parse(data);
    if (message === undefined) return;
    if (!("type" in message)) {
      this.#events.gatewayMessage(message.message);
      return;
    }
    switch (message.type) {
      case "events":
        this.#events.frames(message.frames, data.length);
        return;
      case "gap":
        this.#events.gap(message);
        return;
      case "subscribed":
        this.#events.subscribed(message.id ?? "", message.log, message.topics);
        return;
      case "pong":
      case "subscriptions":
        this.#events.heads(message.heads ?? {});
        this.#resolve(message);
        return;
      case "welcome":
        this.#rate = Math.max(1, message.limits.messagesPerSecond);
        this.#events.welcome(message);
        this.#resolve(message);
        return;
      case "error":
        this.#reject(message);
        return;
      default:
        this.#resolve(message);
    }
  }

  #resolve(message: Message): void {
    const id = "id" in message ? message.id : undefined;
    const pending = id === undefined ? undefined : this.#pending.get(id);
    if (id === undefined || !pending) return;
    clearTimeout(pending.timer);
    this.#pending.delete(id);
    pending.resolve(message);
  }

  #reject(message: Extract<Message, { type: "error" }>): void {
    const error = new RequestError(message.code, message.message, message.topic);
    const pending = message.id === undefined ? undefined : this.#pending.get(message.id);
    if (message.id !== undefined && pending) {
      clearTimeout(pending.timer);
      this.#pending.delete(message.id);
      pending.reject(error);
      return;
    }
    if (message.code === "rate_limited") {
      // The error does not identify the dropped message, so all pending requests are repeated.
      this.#tokens = 0;
      this.#refilledAt = Date.now() + RATE_LIMIT_PAUSE_MS;
      for (const [id, { request }] of this.#pending) this.#outbox.push(JSON.stringify({ ...request, id }));
      this.#flushIn(RATE_LIMIT_PAUSE_MS);
    }
    this.#events.rejected(message.id, error);
  }
}
