/** The client: one connection, which reconnects by itself, and its subscriptions. */

import { platformSocket } from "#socket";
import { Backoff } from "./backoff.js";
import { Emitter } from "./emitter.js";
import { ClosedError, ConnectionError, RequestError, TokenError } from "./errors.js";
import type { Delivery, EventOf } from "./events.js";
import { Link } from "./link.js";
import type { ClientEvents, Options, Pong, State } from "./options.js";
import { type Frame, type GapMessage, type Request, TOPICS_PER_MESSAGE, type Welcome } from "./protocol.js";
import type { Gap, Start } from "./sequence.js";
import { SharedSubscription } from "./shared-subscription.js";
import { type SubscribeOptions, Subscription } from "./subscription.js";
import { canonical, hasSnapshots } from "./topic.js";
import { Visibility } from "./visibility.js";

/** How long a replay or the response to a `subscribe` may take. */
const OVERDUE_MS = 5_000;

/** How often the client compares its newest events with the server's. */
const CHECK_EVERY_MS = 30_000;

/** How long an event may take after its number is known. */
const TAIL_OVERDUE_MS = 3_000;

/** How long a connection must last to count as healthy. */
const HEALTHY_AFTER_MS = 10_000;

/** How long before its expiry a token is replaced, at most. */
const TOKEN_REFRESH_BEFORE_MS = 30_000;

/** The longest delay that `setTimeout` supports. */
const MAX_TIMEOUT_MS = 2 ** 31 - 1;

/** Returns a client of the WebSocket at `url`. It connects at the first subscription. */
export function connect(url: string | URL, options: Options = {}): Headwater {
  return new Headwater(url, options);
}

/** A client of Headwater. */
export class Headwater {
  readonly #url: string;
  readonly #options: Options;
  readonly #emitter = new Emitter<ClientEvents>();
  readonly #backoff: Backoff;
  readonly #shared = new Map<string, SharedSubscription>();
  /** The `subscribe` requests that have topics without a response. */
  readonly #requests = new Map<
    string,
    { link: Link; topics: Map<string, SharedSubscription>; timer: ReturnType<typeof setTimeout> }
  >();
  readonly #visibility: Visibility;
  #state: State = "idle";
  #link: Link | undefined;
  #welcome: Welcome | undefined;
  #running = false;
  #updating = false;
  #renewalTimer: ReturnType<typeof setTimeout> | undefined;
  #refreshTimer: ReturnType<typeof setTimeout> | undefined;
  #healthTimer: ReturnType<typeof setTimeout> | undefined;
  #checkTimer: ReturnType<typeof setTimeout> | undefined;
  /** Ends the current wait. */
  #endWait: (() => void) | undefined;

  constructor(url: string | URL, options: Options = {}) {
    this.#url = String(url).replace(/^http/, "ws");
    this.#options = options;
    this.#backoff = new Backoff({ min: 500, max: 30_000, ...options.backoff }, options.random);
    this.#visibility = new Visibility(options.pauseWhenHidden, {
      hidden: () => this.#link?.close("the page is hidden"),
      visible: () => this.#endWait?.(),
      online: () => {
        this.#link?.check();
        this.#endWait?.();
      },
    });
  }

  /** The state of the connection. */
  get state(): State {
    return this.#state;
  }

  /** The identity and the limits that the server assigned. */
  get welcome(): Welcome | undefined {
    return this.#welcome;
  }

  /** Calls `listener` on every event `name`, until the returned function is called. */
  on<Name extends keyof ClientEvents>(name: Name, listener: (value: ClientEvents[Name]) => void): () => void {
    return this.#emitter.on(name, listener);
  }

  /** Connects, even without a subscription. */
  connect(): void {
    if (this.#state === "closed") throw new ClosedError();
    if (this.#running) return;
    this.#running = true;
    void this.#run();
  }

  /**
   * Subscribes to a topic. The subscription is iterated over, unless there is a `listener`.
   *
   * Every event is delivered once and in order, also across reconnects. Events that cannot be delivered are reported as
   * a gap.
   */
  subscribe<T extends string>(
    topic: T,
    options: SubscribeOptions = {},
    listener?: (delivery: Delivery<EventOf<T>>) => void,
  ): Subscription<EventOf<T>> {
    if (this.#state === "closed") throw new ClosedError();
    const name = canonical(topic);
    const start: Start =
      options.since !== undefined
        ? { kind: "after", seq: options.since, ...(options.log !== undefined && { log: options.log }) }
        : options.last
          ? { kind: "last", count: options.last }
          : { kind: hasSnapshots(name) ? "snapshot" : "next" };
    const { onGap: callback } = options;
    const onGap = (gap: Gap) => {
      this.#emitter.emit("gap", gap);
      callback?.(gap);
    };
    const host = {
      replay: (name: string, from: number, to: number) => this.#replay(name, from, to),
      leave: (subscription: Subscription) => this.#leave(subscription),
    };
    const subscription = new Subscription<EventOf<T>>(host, name, start, { ...options, onGap }, listener);
    const shared = this.#shared.get(name) ?? new SharedSubscription(name);
    this.#shared.set(name, shared);
    shared.add(subscription as Subscription);
    this.connect();
    this.#updateSoon();
    return subscription;
  }

  /** Measures the round trip to the server. */
  async ping(): Promise<Pong> {
    const sent = Date.now();
    const response = await this.#request({ action: "ping" });
    const now = Date.now();
    const at = response.type === "pong" ? Date.parse(response.at) : Number.NaN;
    return { roundTrip: now - sent, clockAhead: at - (sent + now) / 2 };
  }

  /** Returns the topics that this connection is subscribed to, according to the server. */
  async list(): Promise<string[]> {
    const response = await this.#request({ action: "list" });
    return response.type === "subscriptions" ? response.topics : [];
  }

  /**
   * Authenticates with the current token of the provider: over the open connection if the server supports it, otherwise
   * with a new connection that replaces this one. No event is missed either way.
   */
  async authenticate(): Promise<void> {
    const link = this.#link;
    if (!link) {
      this.#endWait?.();
      return;
    }
    const token = await this.#token();
    if (token !== undefined) {
      try {
        const response = await link.request({ action: "authenticate", token });
        if (response.type === "authenticated" && this.#welcome) {
          const { principal, class: name, limits, tokenExpiresAt } = response;
          this.#setWelcome({
            ...this.#welcome,
            principal,
            class: name,
            limits,
            ...(tokenExpiresAt && { tokenExpiresAt }),
          });
          this.#planRenewal(link);
          return;
        }
      } catch (error) {
        if (!(error instanceof RequestError)) throw error;
        if (error.code === "unauthorized") throw new TokenError(error.message, { cause: error });
        // The token of another principal and an older server both require a new connection.
        if (error.code !== "forbidden" && error.code !== "unknown_action") throw error;
      }
    }
    await this.#replaceLink(link);
  }

  /** Closes the connection and ends all subscriptions. */
  close(): void {
    if (this.#state === "closed") return;
    this.#setState({ state: "closed" });
    this.#visibility.stop();
    for (const shared of [...this.#shared.values()]) {
      for (const subscription of [...shared.subscribers]) subscription.end();
    }
    this.#stopRequests();
    this.#link?.close();
    this.#endWait?.();
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
        error = await this.#useLink(link);
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

  /** Uses a link and those that replace it, until one ends without a replacement. Returns the reason. */
  async #useLink(first: Link): Promise<ConnectionError> {
    if (this.#isClosed()) first.close();
    for (const shared of this.#shared.values()) shared.disconnect();
    let link = first;
    this.#activate(link);
    this.#setState({ state: "open" });
    for (;;) {
      const reason = await link.closed;
      if (this.#link === link) {
        this.#link = undefined;
        this.#stopRequests();
        return reason;
      }
      if (!this.#link) return reason;
      link = this.#link;
    }
  }

  #activate(link: Link): void {
    this.#link = link;
    this.#healthTimer = setTimeout(() => this.#backoff.reset(), HEALTHY_AFTER_MS);
    this.#subscribe(link, [...this.#shared.values()]);
    this.#planRenewal(link);
    this.#planCheck(link);
  }

  /** Plans the next comparison of the newest events with the server's. */
  #planCheck(link: Link): void {
    clearTimeout(this.#checkTimer);
    const every = this.#options.checkEvery ?? CHECK_EVERY_MS;
    if (every <= 0) return;
    const random = this.#options.random ?? Math.random;
    this.#checkTimer = setTimeout(
      () => {
        if (this.#link !== link) return;
        // A topic whose events keep arriving needs no check: its numbers show what is missing.
        const quietUntil = Date.now() - every / 2;
        const isQuiet = ({ isEmpty, quietSince }: SharedSubscription) => !isEmpty && quietSince <= quietUntil;
        if ([...this.#shared.values()].some(isQuiet)) link.check();
        this.#planCheck(link);
      },
      every * (0.75 + random() * 0.5),
    );
  }

  #stopRequests(): void {
    clearTimeout(this.#checkTimer);
    clearTimeout(this.#renewalTimer);
    clearTimeout(this.#refreshTimer);
    clearTimeout(this.#healthTimer);
    for (const [id, { timer }] of this.#requests) {
      clearTimeout(timer);
      this.#requests.delete(id);
    }
    for (const shared of this.#shared.values()) shared.disconnect();
  }

  async #token(): Promise<string | undefined> {
    const { token } = this.#options;
    try {
      return typeof token === "function" ? await token() : token;
    } catch (cause) {
      throw new TokenError("the token provider failed", { cause });
    }
  }

  /** Connects and waits for the welcome. */
  async #open(): Promise<Link> {
    const token = await this.#token();
    const Socket = this.#options.WebSocket ?? (await platformSocket());
    let received: Welcome | undefined;
    const opened: { link?: Link } = {};
    const link = await Link.open(
      Socket,
      this.#url,
      token,
      {
        frames: (frames, size) => this.#frames(frames, size),
        gap: (gap) => this.#gap(gap),
        subscribed: (id, log, topics) => this.#subscribed(id, log, topics),
        heads: (heads) => {
          if (this.#link !== undefined && this.#link === opened.link) this.#compare(heads);
        },
        rejected: (id, error) => this.#rejected(id, error),
        welcome: (welcome) => {
          received = welcome;
          if (this.#link !== undefined && this.#link === opened.link) this.#setWelcome(welcome);
        },
        gatewayMessage: (message) =>
          this.#emitter.emit("error", new ConnectionError(`the gateway sent an error: ${message}`)),
      },
      this.#options.keepAlive ?? 60_000,
    ).catch((error: unknown) => {
      const message = error instanceof Error ? error.message : String(error);
      if (token !== undefined && /\b40[13]\b/.test(message)) {
        throw new TokenError("the server rejected the token", { cause: error });
      }
      throw error;
    });
    opened.link = link;
    try {
      await link.request({ action: "hello" });
    } catch (error) {
      link.close("the server did not send a welcome");
      throw error;
    }
    if (received) this.#setWelcome(received);
    return link;
  }

  #setWelcome(welcome: Welcome): void {
    this.#welcome = welcome;
    this.#emitter.emit("welcome", welcome);
  }

  /**
   * Plans the renewal of the connection before the gateway closes it, which is after two hours, and the replacement of
   * the token before it expires.
   */
  #planRenewal(link: Link): void {
    clearTimeout(this.#renewalTimer);
    clearTimeout(this.#refreshTimer);
    const tokenExpires = Date.parse(this.#welcome?.tokenExpiresAt ?? "");
    if (!Number.isNaN(tokenExpires) && typeof this.#options.token === "function") {
      const remaining = tokenExpires - Date.now();
      const early = Math.min(TOKEN_REFRESH_BEFORE_MS, remaining / 5);
      const refresh = () => {
        this.authenticate().catch((error: Error) => this.#emitter.emit("error", error));
      };
      this.#refreshTimer = setTimeout(refresh, Math.min(Math.max(remaining - early, 1_000), MAX_TIMEOUT_MS));
    }
    const expires = Date.parse(this.#welcome?.expiresAt ?? "");
    if (Number.isNaN(expires)) return;
    const random = this.#options.random ?? Math.random;
    const before = this.#options.renewBefore ?? 120_000 + random() * 180_000;
    const wait = Math.min(Math.max(expires - Date.now() - before, 1_000), MAX_TIMEOUT_MS);
    this.#renewalTimer = setTimeout(() => {
      this.#replaceLink(link).catch((error: Error) => {
        // The old connection still lasts for a while. When it ends, the client reconnects as usual.
        this.#emitter.emit("error", error);
        if (this.#link === link) this.#renewalTimer = setTimeout(() => this.#planRenewal(link), 15_000);
      });
    }, wait);
  }

  /** Opens a new link, and closes the old one when the new one is subscribed to every topic. */
  async #replaceLink(old: Link): Promise<void> {
    const link = await this.#open();
    if (this.#link !== old) {
      link.close("another connection has replaced the old one");
      return;
    }
    clearTimeout(this.#healthTimer);
    for (const shared of this.#shared.values()) shared.serverState = "unsubscribed";
    this.#activate(link);
    // Both links deliver events meanwhile; duplicates are dropped.
    const settled = () =>
      [...this.#shared.values()].every((shared) => shared.serverState === "subscribed" || shared.isEmpty);
    const deadline = Date.now() + OVERDUE_MS;
    while (!settled() && link.isOpen && Date.now() < deadline) {
      await new Promise((resolve) => setTimeout(resolve, 20));
    }
    old.close("a new connection has replaced this one");
  }

  #frames(frames: Frame[], size: number): void {
    let events = 0;
    for (const frame of frames) {
      events += frame.events.length;
      this.#emitter.emit("frame", frame);
      this.#shared.get(frame.topic)?.offer(frame);
    }
    this.#emitter.emit("message", { events, frames: frames.length, size });
    this.#backoff.reset();
  }

  #gap({ topic, from, to, reason }: GapMessage): void {
    this.#shared.get(topic)?.skip(from, to, reason);
    // A subscriber that starts with a snapshot needs another one.
    if (reason === "reset") this.#updateSoon();
  }

  /** Compares the newest numbers of the server with what has arrived. */
  #compare(heads: Record<string, number>): void {
    for (const [topic, head] of Object.entries(heads)) this.#shared.get(topic)?.announce(head, TAIL_OVERDUE_MS);
  }

  #leave(subscription: Subscription): void {
    this.#shared.get(subscription.topic)?.remove(subscription);
    this.#updateSoon();
  }

  /** Sends the needed requests in a microtask, so that simultaneous changes share one request. */
  #updateSoon(): void {
    if (this.#updating) return;
    this.#updating = true;
    queueMicrotask(() => {
      this.#updating = false;
      for (const shared of [...this.#shared.values()]) {
        if (shared.isEmpty && shared.serverState === "unsubscribed") {
          this.#shared.delete(shared.topic);
          shared.stop();
        }
      }
      const link = this.#link;
      if (!link) return;
      const all = [...this.#shared.values()];
      const abandoned = all.filter(({ neededRequest }) => neededRequest === "unsubscribe");
      for (const batch of batches(abandoned)) void this.#unsubscribe(link, batch);
      this.#subscribe(
        link,
        all.filter(({ neededRequest }) => neededRequest === "subscribe"),
      );
    });
  }

  async #unsubscribe(link: Link, topics: SharedSubscription[]): Promise<void> {
    for (const shared of topics) shared.serverState = "unsubscribing";
    try {
      await link.request({ action: "unsubscribe", topics: topics.map(({ topic }) => topic) });
    } catch {
      // Events that still arrive have no subscriber and are ignored.
    }
    if (this.#link !== link) return;
    for (const shared of topics) {
      if (shared.serverState === "unsubscribing") shared.serverState = "unsubscribed";
    }
    this.#updateSoon();
  }

  #subscribe(link: Link, topics: SharedSubscription[]): void {
    // A request has one `last` and one `log` for all its topics.
    const groups = new Map<string, { last: number; log: string | undefined; group: SharedSubscription[] }>();
    for (const shared of topics) {
      if (shared.isEmpty) continue;
      const last = shared.beginSubscribe();
      const log = shared.since === undefined ? undefined : shared.log;
      const key = `${last} ${log ?? ""}`;
      const group = groups.get(key)?.group ?? [];
      groups.set(key, { last, log, group: [...group, shared] });
    }
    for (const { last, log, group } of groups.values()) {
      for (const batch of batches(group)) {
        const since: Record<string, number> = {};
        for (const shared of batch) {
          const seq = shared.since;
          if (seq !== undefined) since[shared.topic] = seq;
        }
        const request: Request = { action: "subscribe", topics: batch.map(({ topic }) => topic) };
        if (Object.keys(since).length > 0) request.since = since;
        if (log !== undefined) request.log = log;
        if (last > 0) request.last = last;
        const id = link.send(request);
        const timer = setTimeout(() => this.#resubscribe(id), OVERDUE_MS);
        this.#requests.set(id, { link, topics: new Map(batch.map((shared) => [shared.topic, shared])), timer });
      }
    }
  }

  #resubscribe(id: string): void {
    const request = this.#requests.get(id);
    if (!request) return;
    clearTimeout(request.timer);
    this.#requests.delete(id);
    for (const shared of request.topics.values()) {
      if (shared.serverState === "subscribing") shared.serverState = "unsubscribed";
    }
    if (request.link === this.#link) this.#subscribe(request.link, [...request.topics.values()]);
  }

  /** Repeats a `subscribe` that failed temporarily; without an id, all that have no response. */
  #retrySoon(only?: string): void {
    const wait = 1_000 + (this.#options.random ?? Math.random)() * 1_000;
    for (const [id, request] of this.#requests) {
      if (only !== undefined && only !== id) continue;
      clearTimeout(request.timer);
      request.timer = setTimeout(() => this.#resubscribe(id), wait);
    }
  }

  #subscribed(id: string, log: string, topics: { topic: string; seq: number }[]): void {
    const request = this.#requests.get(id);
    for (const { topic, seq } of topics) {
      if (request && request.link === this.#link) request.topics.get(topic)?.subscribed(seq, log);
      request?.topics.delete(topic);
    }
    this.#updateSoon();
    if (request?.topics.size === 0) {
      clearTimeout(request.timer);
      this.#requests.delete(id);
    }
  }

  #rejected(id: string | undefined, error: RequestError): void {
    const request = id === undefined ? undefined : this.#requests.get(id);
    if (id === undefined || !request) {
      // A replay that failed, which has an id, is repeated by the subscription that waits for it.
      const revoked =
        id === undefined && error.code === "forbidden" && error.topic !== undefined
          ? this.#shared.get(error.topic)
          : undefined;
      if (error.code === "rate_limited") this.#retrySoon();
      else if (revoked) this.#endTopic(revoked, error);
      else this.#emitter.emit("error", error);
      return;
    }
    if (error.isRetryable) {
      this.#retrySoon(id);
      return;
    }
    const name = error.topic === undefined ? undefined : canonical(error.topic);
    const rejected = name === undefined ? [...request.topics.values()] : [request.topics.get(name)];
    for (const shared of rejected) {
      if (!shared) continue;
      request.topics.delete(shared.topic);
      this.#endTopic(shared, error);
    }
    if (request.topics.size === 0) {
      clearTimeout(request.timer);
      this.#requests.delete(id);
    }
  }

  /** Ends all subscriptions of a topic with an error. */
  #endTopic(shared: SharedSubscription, error: Error): void {
    shared.serverState = "unsubscribed";
    for (const subscription of [...shared.subscribers]) {
      if (!subscription.reportError(error)) this.#emitter.emit("error", error);
      subscription.end(error);
    }
  }

  #replay(topic: string, from: number, to: number): void {
    this.#link?.send({ action: "replay", topic, from, to });
    this.#shared.get(topic)?.awaitReplay(OVERDUE_MS);
  }

  async #request(request: Request) {
    if (!this.#link) throw new ConnectionError("the client is not connected");
    return this.#link.request(request);
  }

  async #wait(ms: number): Promise<void> {
    await new Promise<void>((resolve) => {
      const timer = setTimeout(resolve, ms);
      this.#endWait = () => {
        clearTimeout(timer);
        resolve();
      };
    });
    this.#endWait = undefined;
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

/** Splits topics into batches that fit into one message. */
function batches<T>(topics: readonly T[]): T[][] {
  const count = Math.ceil(topics.length / TOPICS_PER_MESSAGE);
  return Array.from({ length: count }, (_, index) =>
    topics.slice(index * TOPICS_PER_MESSAGE, (index + 1) * TOPICS_PER_MESSAGE),
  );
}
