/** The page's one connection, and what is known about it. */

import { computed, signal } from "@preact/signals";
import {
  type Delivery,
  type EventOf,
  Headwater,
  Rest,
  type SourceState,
  type State,
  type Status,
  type SubscribeOptions,
  type Subscription,
  type Welcome,
} from "headwater-client";
import { Meter } from "./status/meter";

/** After how long out of sight the connection is given up until the page is seen again, in milliseconds. */
const PAUSE_AFTER_MS = 60_000;

/** How often the state of the sources is asked for. */
const STATUS_EVERY_MS = 10_000;

/** How often the server's clock is compared with ours. */
const CLOCK_EVERY_MS = 60_000;

/** When that is done besides, after a connection was made: the first answers come while the page is busy. */
const CLOCK_AFTER_MS = [0, 2_000, 6_000];

/** What the connection is doing, and when the next attempt is made. */
export const link = signal<{ state: State; retryAt?: number; error?: Error }>({ state: "idle" });

/** Whether it was ever open. */
export const wasOpen = signal(false);

/** Whether it is lost, from the first failure until it is open again. */
export const lost = signal(false);

/** Who the server says we are. */
export const welcome = signal<Welcome | undefined>(undefined);

/** The last time the server did what this class may not, or a fault that concerns nobody in particular. */
export const fault = signal<Error | undefined>(undefined);

/** How the service is doing. */
export const status = signal<Status | undefined>(undefined);

/** Round trip of the last ping, in milliseconds. */
export const roundTrip = signal<number | undefined>(undefined);

/** Events that could not be had. */
export const gaps = signal(0);

/** Topics that are followed at the moment. */
export const topics = signal<readonly string[]>([]);

/** Whether the data is made up; unknown at first. */
export const simulated = computed(() => {
  const { data, sources = [] } = status.value ?? {};
  return data === undefined && sources.length === 0
    ? undefined
    : data === "simulated" || sources.some(({ state }) => state === "simulated");
});

/** What the reader may do. */
export const className = computed(() => welcome.value?.class);

/** The clock, in steps of a second. */
export const now = signal(Date.now());

/** Counts what arrives. */
export const meter = new Meter();

let token: string | undefined;

/** The REST interface. */
export const rest = new Rest(location.origin, { token: () => token });

let client: Headwater | undefined;
let bestRoundTrip = Number.POSITIVE_INFINITY;
const followed = new Map<string, number>();

/** Connects. */
export async function start(): Promise<void> {
  const config: { websocketUrl?: string } = await fetch("/api/v1/config").then(
    (response) => (response.ok ? response.json() : {}),
    () => ({}),
  );
  const url = new URL(config.websocketUrl ?? "/live", location.href);
  url.protocol = url.protocol.replace("http", "ws");
  client = new Headwater(url, { token: () => token, pauseWhenHidden: PAUSE_AFTER_MS });
  client.on("state", (event) => {
    link.value = event;
    if (event.state === "waiting") lost.value = true;
    if (event.state === "open") {
      lost.value = false;
      wasOpen.value = true;
      meter.expectBacklog();
      bestRoundTrip = Number.POSITIVE_INFINITY;
      for (const wait of CLOCK_AFTER_MS) setTimeout(compareClocks, wait);
      void refreshStatus();
    }
  });
  client.on("welcome", (event) => {
    welcome.value = event;
  });
  client.on("error", (error) => {
    fault.value = error;
  });
  client.on("gap", (gap) => {
    gaps.value += gap.to - gap.from + 1;
  });
  client.on("frame", (frame) => meter.frame(frame));
  client.on("message", (message) => meter.message(message));
  client.connect();
  follow("system/sources", { last: 1 }, ({ event }) => noteSource(event));
  void refreshStatus();
  setInterval(refreshStatus, STATUS_EVERY_MS);
  setInterval(compareClocks, CLOCK_EVERY_MS);
  setInterval(() => {
    now.value = Date.now();
    meter.second();
  }, 1_000);
}

/** Follows a topic until the function that is returned is called. */
export function follow<T extends string>(
  topic: T,
  options: SubscribeOptions,
  listener: (delivery: Delivery<EventOf<T>>) => void,
): () => void {
  if (!client) throw new Error("the page follows nothing before it has started");
  meter.expectBacklog();
  const subscription: Subscription<EventOf<T>> = client.subscribe(topic, options, listener);
  count(topic, 1);
  return () => {
    subscription.unsubscribe();
    count(topic, -1);
  };
}

/** Tries again at once. */
export function retry(): void {
  void client?.authenticate().catch(() => {});
}

/** Whether the server lets this class follow a topic; the reason where it does not. */
export function probe(topic: string): Promise<Error | undefined> {
  return new Promise((resolve) => {
    if (!client) return;
    const stop = client.on("frame", (frame) => frame.topic === topic && done(undefined));
    const subscription = client.subscribe(topic, { last: 1, onError: (error) => done(error) }, () => done(undefined));
    // Allowed, but nothing has happened there yet.
    const timer = setTimeout(() => done(undefined), 1_500);
    function done(result: Error | undefined): void {
      clearTimeout(timer);
      stop();
      queueMicrotask(() => subscription.unsubscribe());
      resolve(result);
    }
  });
}

/** Shows the server a token, or none. Rejects, and stays as it was, if the server does not take it. */
export async function signIn(next: string | undefined): Promise<void> {
  const before = token;
  token = next;
  try {
    await client?.authenticate();
  } catch (error) {
    token = before;
    throw error;
  }
}

/** Whether a token is in use. */
export function isSignedIn(): boolean {
  return token !== undefined;
}

function count(topic: string, change: number): void {
  const readers = (followed.get(topic) ?? 0) + change;
  if (readers > 0) followed.set(topic, readers);
  else followed.delete(topic);
  topics.value = [...followed.keys()].sort();
}

async function refreshStatus(): Promise<void> {
  if (document.visibilityState === "hidden") return;
  try {
    status.value = await rest.status();
  } catch {
    // The connection tells that the server is away.
  }
}

async function compareClocks(): Promise<void> {
  if (client?.state !== "open") return;
  try {
    const pong = await client.ping();
    roundTrip.value = pong.roundTrip;
    // The faster the answer, the less its two ways can differ.
    if (pong.roundTrip > bestRoundTrip * 1.5) return;
    bestRoundTrip = pong.roundTrip;
    meter.clockAhead = pong.clockAhead;
  } catch {
    // It is asked again in a minute.
  }
}

function noteSource(event: SourceState): void {
  const current = status.value;
  if (!current) return;
  const others = current.sources.filter(({ source }) => source !== event.source);
  const before = current.sources.find(({ source }) => source === event.source);
  const sources = [...others, { ...before, ...event }].sort((a, b) => a.source.localeCompare(b.source));
  status.value = { ...current, sources };
}
