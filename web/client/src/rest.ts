/** The client of the REST interface. */

import { ProblemError } from "./errors.js";
import type { Delivery, EventOf, SourceState } from "./events.js";
import type { Welcome } from "./protocol.js";
import { canonical } from "./topic.js";

/** The status of the service. */
export interface Status {
  version: string;
  data?: "live" | "simulated";
  /** The id of the log; absent before a poller has started for the first time. */
  log?: string;
  sources: (SourceState & { lagMs?: number })[];
  topics: number;
  connections: number;
}

/** Selects events of a topic. */
export interface HistoryQuery {
  /** Only events with a greater sequence number. */
  after?: number;
  /** Only events with a smaller sequence number. Without `after`, the newest of them. */
  before?: number;
  /** The most events to return: 1 to 1,000, by default 100. */
  limit?: number;
}

/** A page of history, oldest first. */
export interface History<E> {
  /** The id of the log, which all sequence numbers belong to. */
  log: string;
  events: Delivery<E>[];
  /** The value of `after` for the next page; `undefined` on the last page. */
  next?: number;
}

/** The settings of the REST client. */
export interface RestOptions {
  /** The token, as for the WebSocket. */
  token?: string | (() => string | undefined | Promise<string | undefined>);
}

/** A client of the REST interface at `base`, such as `https://example.org`. */
export class Rest {
  readonly #base: string;
  readonly #options: RestOptions;

  constructor(base: string | URL, options: RestOptions = {}) {
    this.#base = String(base).replace(/\/$/, "");
    this.#options = options;
  }

  /** Returns the status of the service. */
  status(): Promise<Status> {
    return this.#call("GET", "/api/v1/status");
  }

  /** Returns the topics that contain `q`. */
  async topics(q = "", source = ""): Promise<{ topic: string; live: boolean }[]> {
    const query = new URLSearchParams({ q, ...(source && { source }) });
    const { topics } = await this.#call<{ topics: { topic: string; live: boolean }[] }>(
      "GET",
      `/api/v1/topics?${query}`,
    );
    return topics;
  }

  /** Returns events of a topic from the log. */
  async history<T extends string>(topic: T, query: HistoryQuery = {}): Promise<History<EventOf<T>>> {
    const name = canonical(topic);
    const parameters = Object.entries(query).filter(([, value]) => value !== undefined);
    const search = new URLSearchParams(parameters.map(([key, value]) => [key, String(value)]));
    type Page = { log: string; events: { seq: number; at: string; event: EventOf<T> }[]; next?: number };
    const page = await this.#call<Page>("GET", `/api/v1/history/${name}?${search}`);
    const events = page.events.map((event) => ({ topic: name, ...event }));
    const { log, next } = page;
    return next === undefined ? { log, events } : { log, events, next };
  }

  /** Starts a topic on the connection of `welcome`. Returns `false` if it was already started. */
  async start(topic: string, welcome: Welcome): Promise<boolean> {
    const response = await this.#fetch("POST", `/api/v1/subscriptions/${canonical(topic)}`, welcome);
    return response.status === 201;
  }

  /** Stops a topic on the connection of `welcome`. */
  async stop(topic: string, welcome: Welcome): Promise<void> {
    await this.#fetch("DELETE", `/api/v1/subscriptions/${canonical(topic)}`, welcome);
  }

  async #call<T>(method: string, path: string): Promise<T> {
    return (await this.#fetch(method, path)).json() as Promise<T>;
  }

  async #fetch(method: string, path: string, welcome?: Welcome): Promise<Response> {
    const { token } = this.#options;
    const bearer = typeof token === "function" ? await token() : token;
    const headers: Record<string, string> = {};
    if (bearer !== undefined) headers["authorization"] = `Bearer ${bearer}`;
    if (welcome) {
      headers["x-connection-id"] = welcome.connectionId;
      headers["x-connection-token"] = welcome.connectionToken;
    }
    const response = await fetch(this.#base + path, { method, headers });
    if (response.ok) return response;
    const problem = (await response.json().catch(() => ({}))) as {
      detail?: string;
      message?: string;
      nearest?: string[];
    };
    const detail = problem.detail ?? problem.message ?? response.statusText;
    throw new ProblemError(response.status, detail, problem.nearest);
  }
}
