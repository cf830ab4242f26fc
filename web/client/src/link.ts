/** One WebSocket, from its handshake to its end. */

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

/** How long the handshake, and the answer to a request, may take. */
const PATIENCE_MS = 15_000;

/** How long the answer to a keep-alive ping may take. */
const PONG_WITHIN_MS = 10_000;

/** How long nothing is sent after the server has said that it is too much. */
const CALM_MS = 1_000;

/** Messages a second, until the server has said how many it takes. */
const DEFAULT_RATE = 10;

const OPEN = 1;

/** What a link tells of. */
export interface LinkEvents {
  frames(frames: Frame[], bytes: number): void;
  gap(gap: GapMessage): void;
  /** A `subscribed` message, or an error of a request that is about topics. */
  subscribed(id: string, topics: { topic: string; seq: number; recovered?: boolean }[]): void;
  refused(id: string | undefined, error: RequestError): void;
  welcome(welcome: Welcome): void;
  /** What is nobody's answer, such as API Gateway's own messages. */
  other(message: string): void;
}

interface Waiting {
  request: Request;
  resolve(message: Message): void;
  reject(error: Error): void;
  timer: ReturnType<typeof setTimeout>;
}

/** Ids are not given twice, because two links are open while one takes over from the other. */
let ids = 0;

/** An open connection. */
export class Link {
  /** Resolves when it has ended, with the reason. */
  readonly closed: Promise<ConnectionError>;
  readonly #socket: SocketLike;
  readonly #events: LinkEvents;
  readonly #keepAliveMs: number;
  readonly #waiting = new Map<string, Waiting>();
  #outbox: string[] = [];
  #rate = DEFAULT_RATE;
  #allowance = DEFAULT_RATE;
  #filledAt = Date.now();
  #pump: ReturnType<typeof setTimeout> | undefined;
  #heardAt = Date.now();
  #watch: ReturnType<typeof setTimeout> | undefined;
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

  /** Connects. Rejects with what went wrong. */
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
    socket.onmessage = (event: { data: unknown }) => link.#hear(event.data);
    const opened = new Promise<void>((resolve) => {
      socket.onopen = () => resolve();
    });
    const late = setTimeout(() => link.close("the handshake took too long"), PATIENCE_MS);
    const failed = await Promise.race([opened, link.closed]);
    clearTimeout(late);
    if (failed) throw failed;
    link.#heardAt = Date.now();
    link.#schedule();
    return link;
  }

  /** Whether it has not ended. */
  get isOpen(): boolean {
    return !this.#ended;
  }

  /** Sends a request that is not answered, or whose answer is an event; returns its id. */
  send(request: Request): string {
    ids += 1;
    const id = `${ids}`;
    this.#outbox.push(JSON.stringify({ ...request, id }));
    this.#flush();
    return id;
  }

  /** Sends a request and returns its answer. */
  request(request: Request): Promise<Message> {
    return new Promise((resolve, reject) => {
      const id = this.send(request);
      const timer = setTimeout(() => {
        this.#waiting.delete(id);
        reject(new ConnectionError(`the server did not answer ${request.action} in time`));
      }, PATIENCE_MS);
      this.#waiting.set(id, { request, resolve, reject, timer });
    });
  }

  /** Asks whether the other end is there, and ends the link if it does not say so. */
  check(): void {
    if (this.#ended) return;
    const asked = Date.now();
    this.send({ action: "ping" });
    clearTimeout(this.#watch);
    this.#watch = setTimeout(() => {
      if (this.#heardAt < asked) this.close("the server is silent");
      else this.#schedule();
    }, PONG_WITHIN_MS);
  }

  /** Ends it. */
  close(reason = "closed"): void {
    if (this.#ended) return;
    try {
      this.#socket.close(1000);
    } catch {
      // It was never open.
    }
    // A dead link's close event can take minutes.
    this.#stop(new ConnectionError(reason, 1000));
  }

  #stop(reason: ConnectionError): void {
    if (this.#ended) return;
    this.#ended = true;
    clearTimeout(this.#watch);
    clearTimeout(this.#pump);
    this.#outbox = [];
    for (const { reject, timer } of this.#waiting.values()) {
      clearTimeout(timer);
      reject(reason);
    }
    this.#waiting.clear();
    this.#end(reason);
  }

  #schedule(): void {
    clearTimeout(this.#watch);
    const quiet = Date.now() - this.#heardAt;
    this.#watch = setTimeout(
      () => {
        if (Date.now() - this.#heardAt >= this.#keepAliveMs) this.check();
        else this.#schedule();
      },
      Math.max(this.#keepAliveMs - quiet, 10),
    );
  }

  /** Sends what may be sent: the server takes only so many messages a second. */
  #flush(): void {
    if (this.#ended || this.#pump !== undefined) return;
    const now = Date.now();
    this.#allowance = Math.min(this.#rate, this.#allowance + ((now - this.#filledAt) / 1000) * this.#rate);
    this.#filledAt = now;
    while (this.#outbox.length > 0 && this.#allowance >= 1 && this.#socket.readyState === OPEN) {
      const text = this.#outbox.shift();
      if (text !== undefined) this.#socket.send(text);
      this.#allowance -= 1;
    }
    if (this.#outbox.length > 0) this.#flushIn(((1 - this.#allowance) / this.#rate) * 1000);
  }

  #flushIn(ms: number): void {
    clearTimeout(this.#pump);
    this.#pump = setTimeout(
      () => {
        this.#pump = undefined;
        this.#flush();
      },
      Math.max(ms, 1),
    );
  }

  #hear(data: unknown): void {
    if (this.#ended || typeof data !== "string") return;
    this.#heardAt = Date.now();
    const message = parse(data);
    if (message === undefined) return;
    if (!("type" in message)) {
      this.#events.other(message.message);
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
        this.#events.subscribed(message.id ?? "", message.topics);
        return;
      case "welcome":
        this.#rate = Math.max(1, message.limits.messagesPerSecond);
        this.#events.welcome(message);
        this.#answer(message);
        return;
      case "error":
        this.#refuse(message);
        return;
      default:
        this.#answer(message);
    }
  }

  #answer(message: Message): void {
    const id = "id" in message ? message.id : undefined;
    const waiting = id === undefined ? undefined : this.#waiting.get(id);
    if (id === undefined || !waiting) return;
    clearTimeout(waiting.timer);
    this.#waiting.delete(id);
    waiting.resolve(message);
  }

  #refuse(message: Extract<Message, { type: "error" }>): void {
    const error = new RequestError(message.code, message.message, message.topic);
    const waiting = message.id === undefined ? undefined : this.#waiting.get(message.id);
    if (message.id !== undefined && waiting) {
      clearTimeout(waiting.timer);
      this.#waiting.delete(message.id);
      waiting.reject(error);
      return;
    }
    if (message.code === "rate_limited") {
      // It does not say which message it dropped.
      this.#allowance = 0;
      this.#filledAt = Date.now() + CALM_MS;
      for (const [id, { request }] of this.#waiting) this.#outbox.push(JSON.stringify({ ...request, id }));
      this.#flushIn(CALM_MS);
    }
    this.#events.refused(message.id, error);
  }
}
