/** The page's connection to the server, and the state that the server reports. */

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

/** How long the page must be hidden before it closes its connection, in milliseconds. */
const PAUSE_AFTER_MS = 60_000;

/** The interval of the status requests, in milliseconds. */
const STATUS_EVERY_MS = 10_000;

/** The interval of the clock comparisons, in milliseconds. */
const CLOCK_EVERY_MS = 60_000;

/** Additional clock comparisons after each connect, in milliseconds: the first ones run while the page is busy. */
const CLOCK_AFTER_CONNECT_MS = [0, 2_000, 6_000];

/** The state of the connection, and when the next attempt is made. */
export const connection = signal<{ state: State; retryAt?: number; error?: Error }>({ state: "idle" });

/** Whether the connection was ever open. */
export const wasOpen = signal(false);

/** Whether the connection is lost: from the first failure until it is open again. */
export const lost = signal(false);

/** The identity and the limits of the connection. */
export const welcome = signal<Welcome | undefined>(undefined);

/** The status of the service. */
export const status = signal<Status | undefined>(undefined);

/** The round trip of the last ping, in milliseconds. */
export const roundTrip = signal<number | undefined>(undefined);

/** The number of events that were lost. */
export const gaps = signal(0);

/** The topics that the page follows. */
export const topics = signal<readonly string[]>([]);

/** Whether the data is simulated; `undefined` until the server has reported it. */
export const simulated = computed(() => {
  const { data, sources = [] } = status.value ?? {};
  return data === undefined && sources.length === 0
    ? undefined
    : data === "simulated" || sources.some(({ state }) => state === "simulated");
});

/** The reader's class. */
export const className = computed(() => welcome.value?.class);

/** The current time, updated every second. */
export const now = signal(Date.now());

/** The counters of the connection. */
export const meter = new Meter();

let token: string | undefined;

/** The client of the REST interface. */
export const rest = new Rest(location.origin, { token: () => token });

let client: Headwater | undefined;
let bestRoundTrip = Number.POSITIVE_INFINITY;
const followed = new Map<string, number>();

/** Connects to the server. */
export async function start(): Promise<void> {
  const config: { websocketUrl?: string } = await fetch("/api/v1/config").then(
    (response) => (response.ok ? response.json() : {}),
    () => ({}),
  );
  const url = new URL(config.websocketUrl ?? "/live", location.href);
  url.protocol = url.protocol.replace("http", "ws");
  client = new Headwater(url, { token: () => token, pauseWhenHidden: PAUSE_AFTER_MS });
  client.on("state", (event) => {
    connection.value = event;
    if (event.state === "waiting") lost.value = true;
    if (event.state === "open") {
      lost.value = false;
      wasOpen.value = true;
      meter.expectBacklog();
      bestRoundTrip = Number.POSITIVE_INFINITY;
      for (const wait of CLOCK_AFTER_CONNECT_MS) setTimeout(compareClocks, wait);
      void refreshStatus();
    }
  });
  client.on("welcome", (event) => {
    welcome.value = event;
  });
  client.on("gap", (gap) => {
    gaps.value += gap.to - gap.from + 1;
  });
  client.on("frame", (frame) => meter.frame(frame));
  client.on("message", (message) => meter.message(message));
  client.connect();
  follow("system/sources", { last: 1 }, ({ event }) => updateSource(event));
  void refreshStatus();
  setInterval(refreshStatus, STATUS_EVERY_MS);
  setInterval(compareClocks, CLOCK_EVERY_MS);
  setInterval(() => {
    now.value = Date.now();
    meter.second();
  }, 1_000);
}

/** Follows a topic until the returned function is called. */
export function follow<T extends string>(
  topic: T,
  options: SubscribeOptions,
  listener: (delivery: Delivery<EventOf<T>>) => void,
): () => void {
  if (!client) throw new Error("the session has not started");
  meter.expectBacklog();
  const subscription: Subscription<EventOf<T>> = client.subscribe(topic, options, listener);
  countSubscriber(topic, 1);
  return () => {
    subscription.unsubscribe();
    countSubscriber(topic, -1);
  };
}

/** Retries to connect immediately. */
export function retry(): void {
  void client?.authenticate().catch(() => {});
}

/** Resolves with the server's error if this class may not follow a topic. */
export function probe(topic: string): Promise<Error | undefined> {
  return new Promise((resolve) => {
    if (!client) return;
    const stop = client.on("frame", (frame) => frame.topic === topic && done(undefined));
    const subscription = client.subscribe(topic, { last: 1, onError: (error) => done(error) }, () => done(undefined));
    // The topic is allowed but has no event yet.
    const timer = setTimeout(() => done(undefined), 1_500);
    function done(result: Error | undefined): void {
      clearTimeout(timer);
      stop();
      queueMicrotask(() => subscription.unsubscribe());
      resolve(result);
    }
  });
}

/** Authenticates with a token, or without one. If the server rejects it, the previous token stays in use. */
export async function signIn(next: string | undefined): Promise<void> {
  const previous = token;
  token = next;
  try {
    await client?.authenticate();
  } catch (error) {
    token = previous;
    throw error;
  }
}

/** Whether a token is in use. */
export function isSignedIn(): boolean {
  return token !== undefined;
}

function countSubscriber(topic: string, change: number): void {
  const subscribers = (followed.get(topic) ?? 0) + change;
  if (subscribers > 0) followed.set(topic, subscribers);
  else followed.delete(topic);
  topics.value = [...followed.keys()].sort();
}

async function refreshStatus(): Promise<void> {
  if (document.visibilityState === "hidden") return;
  try {
    status.value = await rest.status();
  } catch {
    // The state of the connection already shows that the server cannot be reached.
  }
}

async function compareClocks(): Promise<void> {
  if (client?.state !== "open") return;
  try {
    const pong = await client.ping();
    roundTrip.value = pong.roundTrip;
    // The shorter the round trip, the smaller the error of the offset.
    if (pong.roundTrip > bestRoundTrip * 1.5) return;
    bestRoundTrip = pong.roundTrip;
    meter.clockAhead = pong.clockAhead;
  } catch {
    // The next comparison is in a minute.
  }
}

function updateSource(event: SourceState): void {
  const current = status.value;
  if (!current) return;
  const others = current.sources.filter(({ source }) => source !== event.source);
  const previous = current.sources.find(({ source }) => source === event.source);
  const sources = [...others, { ...previous, ...event }].sort((a, b) => a.source.localeCompare(b.source));
  status.value = { ...current, sources };
}
