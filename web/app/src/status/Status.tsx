/** The status view: the sources, the connection, the event rate, the delivery times and access. */

import type { SourceState } from "headwater-client";
import { clock, compact, duration, fixed } from "../format";
import { connection, gaps, meter, now, roundTrip, simulated, status, topics, wasOpen, welcome } from "../session";
import { Access } from "./Access";
import { BOUNDS, SECONDS } from "./meter";

/** The text for each state of the connection. */
const STATE_TEXTS = {
  idle: "starting",
  connecting: "connecting",
  open: "open",
  waiting: "lost; retrying",
  paused: "paused while the page is hidden",
  closed: "closed",
} as const;

/** The view. */
export function StatusView() {
  return (
    <div class="status">
      <h1 class="sr-only">Status</h1>
      <Sources />
      <Connection />
      <Flow />
      <Delay />
      <Access />
    </div>
  );
}

function Sources() {
  const current = status.value;
  return (
    <section class="card" aria-label="Sources">
      <header class="card-head">
        <h2>Sources</h2>
        {simulated.value && <span class="badge simulated">Simulated</span>}
      </header>
      {!current ? (
        <div class="sources pad">
          <div class="ghost" />
        </div>
      ) : current.sources.length === 0 ? (
        <p class="sources quiet pad">No source has reported its state.</p>
      ) : (
        <ul class="sources">
          {current.sources.map((source) => (
            <Source key={source.source} source={source} />
          ))}
        </ul>
      )}
      <p class="quiet small pad">
        {current
          ? `Version ${current.version}, ${current.topics} topics fetched, ${current.connections} connections`
          : "\u00a0"}
      </p>
    </section>
  );
}

function Source({ source }: { source: SourceState & { lagMs?: number } }) {
  return (
    <li>
      <span class={`dot ${source.state}`} aria-hidden="true" />
      <span class="grow">
        <b>{source.source}</b>
        {source.detail && <span class="quiet small">{source.detail}</span>}
      </span>
      <span class="right">
        <span>{source.state}</span>
        <span class="quiet small">
          {source.lagMs === undefined
            ? `since ${duration(now.value - Date.parse(source.since))}`
            : `newest event ${duration(source.lagMs)} ago`}
        </span>
      </span>
    </li>
  );
}

function Connection() {
  const { state, retryAt, error } = connection.value;
  const session = welcome.value;
  const rows: [string, string][] = [
    [
      "State",
      state === "waiting" && retryAt ? `lost; next attempt in ${duration(retryAt - now.value)}` : STATE_TEXTS[state],
    ],
    ["Class", session?.class ?? "–"],
    ["Principal", session?.principal ?? "–"],
    ["Round trip", roundTrip.value === undefined ? "–" : duration(roundTrip.value)],
    ["Topics", `${topics.value.length} of ${session?.limits.topics ?? "–"}`],
    ["Limit", session ? `${session.limits.messagesPerSecond} messages per second` : "–"],
    ["Renewed before", session ? clock(session.expiresAt) : "–"],
    ["Events lost", `${gaps.value}`],
  ];
  return (
    <section class="card" aria-label="Connection">
      <header class="card-head">
        <h2>Connection</h2>
        <span class={`badge ${state === "open" ? "good" : "bad"}`}>{STATE_TEXTS[state]}</span>
      </header>
      {state === "waiting" && wasOpen.value && error && <p class="pad wrong">{error.message}</p>}
      <dl class="facts">
        {rows.map(([name, value]) => (
          <div key={name}>
            <dt>{name}</dt>
            <dd>{value}</dd>
          </div>
        ))}
      </dl>
    </section>
  );
}

function Flow() {
  const seconds = meter.seconds.value;
  const { events, messages, characters } = meter.total.value;
  const latest = seconds.slice(-10);
  const rate = (key: "events" | "messages") => latest.reduce((sum, second) => sum + second[key], 0) / latest.length;
  const most = Math.max(1, ...seconds.map((second) => second.events));
  return (
    <section class="card" aria-label="Flow">
      <header class="card-head">
        <h2>Flow</h2>
        <span class="quiet">last {SECONDS} s</span>
      </header>
      <dl class="numbers">
        <div>
          <dt>events per second</dt>
          <dd>{fixed(rate("events"), 1)}</dd>
        </div>
        <div>
          <dt>messages per second</dt>
          <dd>{fixed(rate("messages"), 1)}</dd>
        </div>
        <div>
          <dt>events per message</dt>
          <dd>{messages > 0 ? fixed(events / messages, 2) : "–"}</dd>
        </div>
      </dl>
      <svg
        class="bars"
        viewBox={`0 0 ${SECONDS} 24`}
        preserveAspectRatio="none"
        role="img"
        aria-label={`Events per second, at most ${most}`}
      >
        {seconds.map((second, index) => {
          const height = (second.events / most) * 24;
          return <rect key={index} x={index + 0.1} width="0.8" y={24 - height} height={height} />;
        })}
      </svg>
      <p class="quiet small pad">
        {compact(events)} events in {compact(messages)} messages, {compact(characters)} characters since the page was
        opened
      </p>
    </section>
  );
}

function Delay() {
  const bars = meter.histogram.value;
  const total = bars.reduce((sum, count) => sum + count, 0);
  const most = Math.max(1, ...bars);
  const label = (index: number) => {
    if (index === BOUNDS.length) return "more";
    const bound = BOUNDS[index] ?? 0;
    return bound < 1_000 ? `${bound}` : "1 s";
  };
  const quantile = (share: number) => {
    const value = meter.quantile(share);
    return value === undefined ? "–" : value < 10 ? `${fixed(value, 1)} ms` : duration(value);
  };
  return (
    <section class="card" aria-label="Delivery">
      <header class="card-head">
        <h2>Delivery</h2>
        <span class="quiet">from server to page, ms</span>
      </header>
      <dl class="numbers">
        <div>
          <dt>median</dt>
          <dd>{quantile(0.5)}</dd>
        </div>
        <div>
          <dt>99th percentile</dt>
          <dd>{quantile(0.99)}</dd>
        </div>
        <div>
          <dt>events</dt>
          <dd>{compact(total)}</dd>
        </div>
      </dl>
      <table class="histogram" aria-label="Events by delivery time">
        <tbody>
          {bars.map((count, index) => (
            <tr key={index}>
              <th scope="row">{label(index)}</th>
              <td>
                <span class="bar" style={{ transform: `scaleX(${(count / most).toFixed(3)})` }} />
                <span class="sr-only">{count}</span>
              </td>
              <td class="share">{total > 0 && count > 0 ? `${fixed((count / total) * 100, 1)}%` : ""}</td>
            </tr>
          ))}
        </tbody>
      </table>
    </section>
  );
}
