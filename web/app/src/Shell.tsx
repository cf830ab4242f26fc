/** The frame around every view: navigation, connection state and the banner for simulated data. */

import type { ComponentChildren } from "preact";
import { useEffect } from "preact/hooks";
import { duration } from "./format";
import { BubbleIcon, ChartIcon, Logo, MoonIcon, PersonIcon, PulseIcon, SunIcon } from "./icons";
import { Market } from "./market/Market";
import { Posts } from "./posts/Posts";
import { address, path } from "./router";
import { className, connection, lost, now, retry, roundTrip, simulated, wasOpen } from "./session";
import { StatusView } from "./status/Status";
import { theme, toggle } from "./theme";

const VIEWS = [
  { name: "market", href: "/", label: "Market", icon: <ChartIcon /> },
  { name: "posts", href: "/posts", label: "Posts", icon: <BubbleIcon /> },
  { name: "status", href: "/status", label: "Status", icon: <PulseIcon /> },
] as const;

/** The whole page. `ready` is false until the session has started. */
export function Shell({ ready }: { ready: boolean }) {
  const first = path.value[0] ?? "market";
  const view = VIEWS.find(({ name }) => name === first);
  useEffect(() => {
    document.title = [path.value[1], view?.label, "Headwater"].filter(Boolean).join(" · ");
  }, [path.value, view]);
  useEffect(() => {
    // A link to a part of a view: the part exists only after the view has been rendered.
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
        <a class="brand" href="/" aria-label="Headwater, market view">
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
        <ConnectionChip />
        <a class="chip class" href="/status#sign-in" aria-label={`Class ${className.value ?? "unknown"}; sign in`}>
          <PersonIcon />
          <span>{className.value ?? "…"}</span>
        </a>
        <button
          type="button"
          class="icon-button"
          onClick={toggle}
          aria-label={theme.value === "dark" ? "Show in light colors" : "Show in dark colors"}
        >
          {theme.value === "dark" ? <SunIcon /> : <MoonIcon />}
        </button>
      </header>
      <DataBanner />
      <main id="main" tabIndex={-1}>
        {!ready ? <Loading /> : <View name={view?.name} />}
      </main>
      <ConnectionToast />
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
          <h1>Page not found</h1>
          <p>There is no view at this address.</p>
          <a class="button" href="/">
            Go to the market
          </a>
        </section>
      );
  }
}

/** Warns that the data is simulated. Its space is reserved until the server has reported what the data is. */
function DataBanner() {
  if (simulated.value === false) return null;
  return (
    <div class={`data-banner ${simulated.value ? "" : "unknown"}`} role="status">
      {simulated.value && (
        <p>
          <strong>Simulated data.</strong> Everything on this page is made up
          <span>: every price, every person, every post</span>.
        </p>
      )}
    </div>
  );
}

function ConnectionChip() {
  const { state } = connection.value;
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

/** Reports that the connection is lost. It overlays the page, so that nothing moves. */
function ConnectionToast() {
  const { retryAt = 0 } = connection.value;
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
            {retryAt > now.value ? `Trying again in ${duration(retryAt - now.value)}.` : "Trying again…"} No event will
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
