/** The frame of the page: where one is, how the connection does, and what the data is. */

import type { ComponentChildren } from "preact";
import { useEffect } from "preact/hooks";
import { duration } from "./format";
import { Bubble, Chart, Logo, Moon, Person, Pulse, Sun } from "./icons";
import { Market } from "./market/Market";
import { Posts } from "./posts/Posts";
import { address, path } from "./router";
import { className, link, lost, now, retry, roundTrip, simulated, wasOpen } from "./session";
import { StatusView } from "./status/Status";
import { theme, toggle } from "./theme";

const VIEWS = [
  { name: "market", href: "/", label: "Market", icon: <Chart /> },
  { name: "posts", href: "/posts", label: "Posts", icon: <Bubble /> },
  { name: "status", href: "/status", label: "Status", icon: <Pulse /> },
] as const;

/** The page. */
export function Shell({ ready }: { ready: boolean }) {
  const first = path.value[0] ?? "market";
  const view = VIEWS.find(({ name }) => name === first);
  useEffect(() => {
    document.title = [path.value[1], view?.label, "Headwater"].filter(Boolean).join(" · ");
  }, [path.value, view]);
  useEffect(() => {
    // A link into a view: what it points to is there only once the view is.
    const { hash } = address.value;
    if (hash && ready)
      document.querySelector(`[id="${CSS.escape(hash.slice(1))}"]`)?.scrollIntoView({ block: "center" });
  }, [address.value, ready]);
  return (
    <>
      <a class="skip" href="#main">
        Skip to the content
      </a>
      <header class="top">
        <a class="brand" href="/" aria-label="Headwater, to the market">
          <Logo />
          <span>Headwater</span>
        </a>
        <nav class="views" aria-label="Views">
          {VIEWS.map((one) => (
            <a key={one.name} href={one.href} aria-current={one === view ? "page" : undefined}>
              {one.icon}
              <span>{one.label}</span>
            </a>
          ))}
        </nav>
        <span class="spacer" />
        <ConnectionMark />
        <a class="chip class" href="/status#sign-in" aria-label={`Class ${className.value ?? "unknown"}; sign in`}>
          <Person />
          <span>{className.value ?? "…"}</span>
        </a>
        <button
          type="button"
          class="icon-button"
          onClick={toggle}
          aria-label={theme.value === "dark" ? "Show in light colours" : "Show in dark colours"}
        >
          {theme.value === "dark" ? <Sun /> : <Moon />}
        </button>
      </header>
      <Origin />
      <main id="main" tabIndex={-1}>
        {!ready ? <Loading /> : <View name={view?.name} />}
      </main>
      <Trouble />
    </>
  );
}

function View({ name }: { name: (typeof VIEWS)[number]["name"] | undefined }): ComponentChildren {
  switch (name) {
    case "market":
      return <Market />;
    case "posts":
      return <Posts />;
    case "status":
      return <StatusView />;
    default:
      return (
        <section class="card notice">
          <h1>There is nothing here</h1>
          <p>The address leads to no view of this page.</p>
          <a class="button" href="/">
            To the market
          </a>
        </section>
      );
  }
}

/** Says loudly that the data is made up. Its place is kept until it is known. */
function Origin() {
  if (simulated.value === false) return null;
  return (
    <div class={`origin ${simulated.value ? "" : "unknown"}`} role="status">
      {simulated.value && (
        <p>
          <strong>Simulated data.</strong> Everything here is made up
          <span>: every price, every person, every post</span>.
        </p>
      )}
    </div>
  );
}

function ConnectionMark() {
  const { state } = link.value;
  const text = {
    idle: "starting",
    connecting: "connecting",
    open: "live",
    waiting: "offline",
    paused: "paused",
    closed: "closed",
  }[state];
  return (
    <a class={`chip link ${state}`} href="/status" aria-label={`Connection: ${text}`}>
      <span class="dot" aria-hidden="true" />
      <span>{text}</span>
      {state === "open" && roundTrip.value !== undefined && <span class="quiet rtt">{duration(roundTrip.value)}</span>}
    </a>
  );
}

/** Says that the connection is lost. It lies over the page, so that nothing moves. */
function Trouble() {
  const { retryAt = 0 } = link.value;
  const shown = lost.value;
  const offline = !navigator.onLine;
  return (
    <div class={`toast ${shown ? "shown" : ""}`} role="status" aria-live="polite">
      {shown && (
        <>
          <span>
            <strong>
              {offline
                ? "You are offline."
                : wasOpen.value
                  ? "The connection is lost."
                  : "The server cannot be reached."}
            </strong>{" "}
            {retryAt > now.value ? `Trying again in ${duration(retryAt - now.value)}.` : "Trying again…"} Nothing will
            be missed.
          </span>
          <button type="button" class="button small" onClick={retry}>
            Try now
          </button>
        </>
      )}
    </div>
  );
}

function Loading() {
  return (
    <div class="loading" aria-busy="true">
      <p class="sr-only" role="status">
        Loading
      </p>
      <div class="card ghost-card" />
      <div class="card ghost-card" />
    </div>
  );
}
