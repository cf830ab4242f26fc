/** The client: one connection, however often it has to be made anew, and everybody who reads from it. */

import { platformSocket } from "#socket";
import { Backoff, type BackoffOptions } from "./backoff.js";
import { Emitter } from "./emitter.js";
import { ClosedError, ConnectionError, RequestError, TokenError } from "./errors.js";
import type { EventOf } from "./events.js";
import { Link } from "./link.js";
import { type Frame, type Request, TOPICS_PER_MESSAGE, type Welcome } from "./protocol.js";
import { Room } from "./room.js";
import type { Gap, Start } from "./sequence.js";
import type { SocketConstructor } from "./socket.js";
import { type SubscribeOptions, Subscription } from "./subscription.js";
import { canonical, hasSnapshots } from "./topic.js";
import { Visibility } from "./visibility.js";

/** How long a replay, or the answer to a `subscribe`, is waited for. */
const OVERDUE_MS = 5_000;

/** How long a connection must last to count as one that was of use. */
const USEFUL_MS = 10_000;

/** How long before a token expires another is shown, at most. */
const TOKEN_EARLY_MS = 30_000;

/** Longest time that `setTimeout` takes. */
const MAX_TIMEOUT_MS = 2 ** 31 - 1;

/** What a connection is doing. */
export type State =
  /** Not asked for anything yet. */
  | "idle"
  | "connecting"
  | "open"
  /** Waiting before the next attempt. */
  | "waiting"
  /** The page is hidden. */
  | "paused"
  | "closed";

/** The settings of a client; all have defaults. */
export interface Options {
  /** A JWT, or what gives one for each connection; none makes the connection anonymous. */
  token?: string | (() => string | undefined | Promise<string | undefined>);
  /** The waits between attempts, with full jitter: 500 ms to 30 s. */
  backoff?: Partial<BackoffOptions>;
  /** After how much silence the other end is asked whether it is there, in milliseconds: 60 s. */
  keepAlive?: number;
  /** Connect anew this long before the gateway ends the connection, in milliseconds: 2 to 5 minutes. */
  renewBefore?: number;
  /** Disconnect when the page has been hidden for so long, in milliseconds, and resume when it is seen. Off. */
  pauseWhenHidden?: number;
  /** The WebSocket to use in place of the platform's. */
  WebSocket?: SocketConstructor;
  /** Where the jitter comes from. */
  random?: () => number;
}

/** What a client tells of. */
export interface ClientEvents {
  /** The connection's state, and in `waiting` when the next attempt is made. */
  state: { state: State; retryAt?: number; error?: Error };
  /** Who the server says we are; again after each new connection. */
  welcome: Welcome;
  /** What went wrong, and that nobody nearer was told of. None of it ends the client. */
  error: Error;
  /** Events that some subscription will not get. */
  gap: Gap;
  /** A frame as it came, before duplicates are dropped. */
  frame: Frame;
  /** A message with events came, in characters. */
  message: { events: number; frames: number; size: number };
}

/** The round trip of a ping, and how far the server's clock is ahead of ours; in milliseconds. */
export interface Pong {
  roundTrip: number;
  clockAhead: number;
}

/** Returns a client of the WebSocket at `url`; it connects when it is first asked for something. */
export function connect(url: string | URL, options: Options = {}): Headwater {
  return new Headwater(url, options);
}

/** A client. */
export class Headwater {
  readonly #url: string;
  readonly #options: Options;
  readonly #emitter = new Emitter<ClientEvents>();
  readonly #backoff: Backoff;
  readonly #rooms = new Map<string, Room>();
  readonly #requests = new Map<
    string,
    { link: Link; topics: Map<string, Room>; timer: ReturnType<typeof setTimeout> }
  >();
  readonly #visibility: Visibility;
  #state: State = "idle";
  #link: Link | undefined;
  #welcome: Welcome | undefined;
  #running = false;
  #flushing = false;
  #renewal: ReturnType<typeof setTimeout> | undefined;
  #refresh: ReturnType<typeof setTimeout> | undefined;
  #useful: ReturnType<typeof setTimeout> | undefined;
  /** Ends the wait under way. */
  #hurry: (() => void) | undefined;

  constructor(url: string | URL, options: Options = {}) {
    this.#url = String(url).replace(/^http/, "ws");
    this.#options = options;
    this.#backoff = new Backoff({ min: 500, max: 30_000, ...options.backoff }, options.random);
    this.#visibility = new Visibility(options.pauseWhenHidden, {
      hidden: () => this.#link?.close("the page is hidden"),
      seen: () => this.#hurry?.(),
      online: () => {
        this.#link?.check();
        this.#hurry?.();
      },
    });
  }

  /** What the connection is doing. */
  get state(): State {
    return this.#state;
  }

  /** What the server said when the connection was made. */
  get welcome(): Welcome | undefined {
    return this.#welcome;
  }

  /** Calls `listener` at every `name`, until the function that is returned is called. */
  on<Name extends keyof ClientEvents>(name: Name, listener: (value: ClientEvents[Name]) => void): () => void {
    return this.#emitter.on(name, listener);
  }

  /** Connects, also when there is nothing to subscribe to yet. */
  connect(): void {
    if (this.#state === "closed") throw new ClosedError();
    if (this.#running) return;
    this.#running = true;
    void this.#run();
  }

  /**
   * Subscribes to a topic: to be iterated over, or with a callback.
   *
   * Whatever happens to the connection, every event comes once and in order, or is told as a gap.
   */
  subscribe<T extends string>(
    topic: T,
    options: SubscribeOptions = {},
    listener?: (delivery: import("./events.js").Delivery<EventOf<T>>) => void,
  ): Subscription<EventOf<T>> {
    if (this.#state === "closed") throw new ClosedError();
    const name = canonical(topic);
    const start: Start =
      options.since !== undefined
        ? { kind: "after", seq: options.since }
        : options.last
          ? { kind: "last", count: options.last }
          : { kind: hasSnapshots(name) ? "snapshot" : "next" };
    const given = options.onGap;
    const onGap = (gap: Gap) => {
      this.#emitter.emit("gap", gap);
      given?.(gap);
    };
    const host = {
      replay: (wanted: string, from: number, to: number) => this.#replay(wanted, from, to),
      leave: (subscription: Subscription) => this.#leave(subscription),
    };
    const subscription = new Subscription<EventOf<T>>(host, name, start, { ...options, onGap }, listener);
    const room = this.#rooms.get(name) ?? new Room(name);
    this.#rooms.set(name, room);
    room.enter(subscription as Subscription);
    this.connect();
    this.#flushSoon();
    return subscription;
  }

  /** Measures the way to the server and back. */
  async ping(): Promise<Pong> {
    const sent = Date.now();
    const answer = await this.#request({ action: "ping" });
    const now = Date.now();
    const at = answer.type === "pong" ? Date.parse(answer.at) : Number.NaN;
    return { roundTrip: now - sent, clockAhead: at - (sent + now) / 2 };
  }

  /** Returns the topics that the server says this connection is subscribed to. */
  async list(): Promise<string[]> {
    const answer = await this.#request({ action: "list" });
    return answer.type === "subscriptions" ? answer.topics : [];
  }

  /**
   * Shows the server the token that the provider has now: over the open connection where the server can do that, else by
   * a new connection that takes over from this one. Nothing is missed either way.
   */
  async authenticate(): Promise<void> {
    const link = this.#link;
    if (!link) {
      this.#hurry?.();
      return;
    }
    const token = await this.#token();
    if (token !== undefined) {
      try {
        const answer = await link.request({ action: "authenticate", token });
        if (answer.type === "authenticated" && this.#welcome) {
          const { principal, class: name, limits, tokenExpiresAt } = answer;
          this.#greet({ ...this.#welcome, principal, class: name, limits, ...(tokenExpiresAt && { tokenExpiresAt }) });
          this.#planRenewal(link);
          return;
        }
      } catch (error) {
        if (!(error instanceof RequestError)) throw error;
        if (error.code === "unauthorized") throw new TokenError(error.message, { cause: error });
        // A token of somebody else, or an older server: both take it over a new connection.
        if (error.code !== "forbidden" && error.code !== "unknown_action") throw error;
      }
    }
    await this.#takeOver(link);
  }

  /** Ends the connection and all subscriptions. */
  close(): void {
    if (this.#state === "closed") return;
    this.#setState({ state: "closed" });
    this.#visibility.stop();
    for (const room of [...this.#rooms.values()]) {
      for (const subscription of [...room.subscribers]) subscription.end();
    }
    this.#drop();
    this.#link?.close();
    this.#hurry?.();
  }

  async #run(): Promise<void> {
    while (!this.#isClosed()) {
      if (this.#visibility.isHidden) {
        this.#setState({ state: "paused" });
        await this.#wait(MAX_TIMEOUT_MS);
        continue;
      }
      this.#setState({ state: "connecting" });
      let error: Error;
      try {
        const link = await this.#open();
        error = await this.#stay(link);
        if (this.#isClosed() || this.#visibility.isHidden) continue;
      } catch (cause) {
        error = cause instanceof Error ? cause : new ConnectionError(String(cause));
        this.#emitter.emit("error", error);
      }
      if (this.#isClosed()) return;
      const wait = this.#backoff.next();
      this.#setState({ state: "waiting", retryAt: Date.now() + wait, error });
      await this.#wait(wait);
    }
  }

  /** Uses a link, and those that take over from it, until one ends with no other in its place. */
  async #stay(first: Link): Promise<ConnectionError> {
    if (this.#isClosed()) first.close();
    for (const room of this.#rooms.values()) room.disconnect();
    let link = first;
    this.#adopt(link);
    this.#setState({ state: "open" });
    for (;;) {
      const reason = await link.closed;
      if (this.#link === link) {
        this.#link = undefined;
        this.#drop();
        return reason;
      }
      if (!this.#link) return reason;
      link = this.#link;
    }
  }

  #adopt(link: Link): void {
    this.#link = link;
    this.#useful = setTimeout(() => this.#backoff.reset(), USEFUL_MS);
    this.#join(link, [...this.#rooms.values()]);
    this.#planRenewal(link);
  }

  #drop(): void {
    clearTimeout(this.#renewal);
    clearTimeout(this.#refresh);
    clearTimeout(this.#useful);
    for (const [id, { timer }] of this.#requests) {
      clearTimeout(timer);
      this.#requests.delete(id);
    }
    for (const room of this.#rooms.values()) room.disconnect();
  }

  async #token(): Promise<string | undefined> {
    const { token } = this.#options;
    try {
      return typeof token === "function" ? await token() : token;
    } catch (cause) {
      throw new TokenError("the token provider failed", { cause });
    }
  }

  /** Connects, and learns who we are. */
  async #open(): Promise<Link> {
    const token = await this.#token();
    const Socket = this.#options.WebSocket ?? (await platformSocket());
    let welcomed: Welcome | undefined;
    const box: { link?: Link } = {};
    const link = await Link.open(
      Socket,
      this.#url,
      token,
      {
        frames: (frames, size) => this.#frames(frames, size),
        gap: ({ topic, from, to, reason }) => this.#rooms.get(topic)?.miss(from, to, reason),
        subscribed: (id, topics) => this.#subscribed(id, topics),
        refused: (id, error) => this.#refused(id, error),
        welcome: (welcome) => {
          welcomed = welcome;
          if (this.#link !== undefined && this.#link === box.link) this.#greet(welcome);
        },
        other: (message) => this.#emitter.emit("error", new ConnectionError(`the gateway says: ${message}`)),
      },
      this.#options.keepAlive ?? 60_000,
    ).catch((error: unknown) => {
      const message = error instanceof Error ? error.message : String(error);
      if (token !== undefined && /\b40[13]\b/.test(message)) {
        throw new TokenError("the server does not take the token", { cause: error });
      }
      throw error;
    });
    box.link = link;
    try {
      await link.request({ action: "hello" });
    } catch (error) {
      link.close("the server did not greet us");
      throw error;
    }
    if (welcomed) this.#greet(welcomed);
    return link;
  }

  #greet(welcome: Welcome): void {
    this.#welcome = welcome;
    this.#emitter.emit("welcome", welcome);
  }

  /**
   * Connects anew before the gateway ends the connection, which is after two hours, and shows another token before the
   * present one expires.
   */
  #planRenewal(link: Link): void {
    clearTimeout(this.#renewal);
    clearTimeout(this.#refresh);
    const tokenExpires = Date.parse(this.#welcome?.tokenExpiresAt ?? "");
    if (!Number.isNaN(tokenExpires) && typeof this.#options.token === "function") {
      const left = tokenExpires - Date.now();
      const early = Math.min(TOKEN_EARLY_MS, left / 5);
      const refresh = () => {
        this.authenticate().catch((error: Error) => this.#emitter.emit("error", error));
      };
      this.#refresh = setTimeout(refresh, Math.min(Math.max(left - early, 1_000), MAX_TIMEOUT_MS));
    }
    const expires = Date.parse(this.#welcome?.expiresAt ?? "");
    if (Number.isNaN(expires)) return;
    const random = this.#options.random ?? Math.random;
    const before = this.#options.renewBefore ?? 120_000 + random() * 180_000;
    const wait = Math.min(Math.max(expires - Date.now() - before, 1_000), MAX_TIMEOUT_MS);
    this.#renewal = setTimeout(() => {
      this.#takeOver(link).catch((error: Error) => {
        // The old one is still good for a while; after that the ordinary way is gone.
        this.#emitter.emit("error", error);
        if (this.#link === link) this.#renewal = setTimeout(() => this.#planRenewal(link), 15_000);
      });
    }, wait);
  }

  /** Opens another link; the old one ends when the other has everything that it has. */
  async #takeOver(old: Link): Promise<void> {
    const link = await this.#open();
    if (this.#link !== old) {
      link.close("another connection was faster");
      return;
    }
    clearTimeout(this.#useful);
    for (const room of this.#rooms.values()) room.wire = "out";
    this.#adopt(link);
    // Events of both count: what both send is dropped the second time.
    const settled = () => [...this.#rooms.values()].every((room) => room.wire === "in" || room.isEmpty);
    const deadline = Date.now() + OVERDUE_MS;
    while (!settled() && link.isOpen && Date.now() < deadline) {
      await new Promise((resolve) => setTimeout(resolve, 20));
    }
    old.close("another connection took over");
  }

  #frames(frames: Frame[], size: number): void {
    let events = 0;
    for (const frame of frames) {
      events += frame.events.length;
      this.#emitter.emit("frame", frame);
      this.#rooms.get(frame.topic)?.offer(frame);
    }
    this.#emitter.emit("message", { events, frames: frames.length, size });
    this.#backoff.reset();
  }

  #leave(subscription: Subscription): void {
    const room = this.#rooms.get(subscription.topic);
    room?.exit(subscription);
    this.#flushSoon();
  }

  /** Subscribes and unsubscribes what has changed, once for all changes of this moment. */
  #flushSoon(): void {
    if (this.#flushing) return;
    this.#flushing = true;
    queueMicrotask(() => {
      this.#flushing = false;
      for (const room of [...this.#rooms.values()]) {
        if (room.isEmpty && room.wire === "out") {
          this.#rooms.delete(room.topic);
          room.stop();
        }
      }
      const link = this.#link;
      if (!link) return;
      const rooms = [...this.#rooms.values()];
      const left = rooms.filter((room) => room.wish === "leave");
      for (let at = 0; at < left.length; at += TOPICS_PER_MESSAGE) {
        void this.#unsubscribe(link, left.slice(at, at + TOPICS_PER_MESSAGE));
      }
      this.#join(
        link,
        rooms.filter((room) => room.wish === "join"),
      );
    });
  }

  async #unsubscribe(link: Link, rooms: Room[]): Promise<void> {
    for (const room of rooms) room.wire = "leaving";
    try {
      await link.request({ action: "unsubscribe", topics: rooms.map((room) => room.topic) });
    } catch {
      // Whatever still comes of them is nobody's.
    }
    if (this.#link !== link) return;
    for (const room of rooms) {
      if (room.wire === "leaving") room.wire = "out";
    }
    this.#flushSoon();
  }

  #join(link: Link, rooms: Room[]): void {
    const groups = new Map<number, Room[]>();
    for (const room of rooms) {
      if (room.isEmpty) continue;
      const last = room.ask();
      groups.set(last, [...(groups.get(last) ?? []), room]);
    }
    for (const [last, group] of groups) {
      for (let at = 0; at < group.length; at += TOPICS_PER_MESSAGE) {
        const part = group.slice(at, at + TOPICS_PER_MESSAGE);
        const since: Record<string, number> = {};
        for (const room of part) {
          const seq = room.since;
          if (seq !== undefined) since[room.topic] = seq;
        }
        const request: Request = { action: "subscribe", topics: part.map((room) => room.topic) };
        if (Object.keys(since).length > 0) request.since = since;
        if (last > 0) request.last = last;
        const id = link.send(request);
        const timer = setTimeout(() => this.#joinAgain(id), OVERDUE_MS);
        this.#requests.set(id, { link, topics: new Map(part.map((room) => [room.topic, room])), timer });
      }
    }
  }

  #joinAgain(id: string): void {
    const request = this.#requests.get(id);
    if (!request) return;
    clearTimeout(request.timer);
    this.#requests.delete(id);
    for (const room of request.topics.values()) {
      if (room.wire === "joining") room.wire = "out";
    }
    if (request.link === this.#link) this.#join(request.link, [...request.topics.values()]);
  }

  /** Repeats a request that failed for now; without an id, all that are not answered. */
  #askAgainSoon(only?: string): void {
    const wait = 1_000 + (this.#options.random ?? Math.random)() * 1_000;
    for (const [id, request] of this.#requests) {
      if (only !== undefined && only !== id) continue;
      clearTimeout(request.timer);
      request.timer = setTimeout(() => this.#joinAgain(id), wait);
    }
  }

  #subscribed(id: string, topics: { topic: string; seq: number; recovered?: boolean }[]): void {
    const request = this.#requests.get(id);
    for (const { topic, seq, recovered } of topics) {
      if (request && request.link === this.#link) request.topics.get(topic)?.welcome(seq, recovered);
      request?.topics.delete(topic);
    }
    this.#flushSoon();
    if (request?.topics.size === 0) {
      clearTimeout(request.timer);
      this.#requests.delete(id);
    }
  }

  #refused(id: string | undefined, error: RequestError): void {
    const request = id === undefined ? undefined : this.#requests.get(id);
    if (id === undefined || !request) {
      // A replay that failed is asked for again by whoever waits for it.
      const revoked =
        error.code === "forbidden" && error.topic !== undefined ? this.#rooms.get(error.topic) : undefined;
      if (error.code === "rate_limited") this.#askAgainSoon();
      else if (revoked) this.#turnOut(revoked, error);
      else this.#emitter.emit("error", error);
      return;
    }
    if (error.isRetryable) {
      this.#askAgainSoon(id);
      return;
    }
    const name = error.topic === undefined ? undefined : canonical(error.topic);
    const rooms = name === undefined ? [...request.topics.values()] : [request.topics.get(name)];
    for (const room of rooms) {
      if (!room) continue;
      request.topics.delete(room.topic);
      this.#turnOut(room, error);
    }
    if (request.topics.size === 0) {
      clearTimeout(request.timer);
      this.#requests.delete(id);
    }
  }

  /** Ends a topic's subscriptions, with the reason. */
  #turnOut(room: Room, error: Error): void {
    room.wire = "out";
    for (const subscription of [...room.subscribers]) {
      if (!subscription.tell(error)) this.#emitter.emit("error", error);
      subscription.end(error);
    }
  }

  #replay(topic: string, from: number, to: number): void {
    this.#link?.send({ action: "replay", topic, from, to });
    this.#rooms.get(topic)?.awaitReplay(OVERDUE_MS);
  }

  async #request(request: Request) {
    if (!this.#link) throw new ConnectionError("there is no connection at the moment");
    return this.#link.request(request);
  }

  async #wait(ms: number): Promise<void> {
    await new Promise<void>((resolve) => {
      const timer = setTimeout(resolve, ms);
      this.#hurry = () => {
        clearTimeout(timer);
        resolve();
      };
    });
    this.#hurry = undefined;
  }

  #isClosed(): boolean {
    return this.#state === "closed";
  }

  #setState(event: ClientEvents["state"]): void {
    if (this.#state === "closed") return;
    this.#state = event.state;
    this.#emitter.emit("state", event);
  }
}
