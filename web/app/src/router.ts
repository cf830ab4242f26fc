/** The router. The URL is the only record of what is shown, so every view can be linked to. */

import { computed, signal } from "@preact/signals";

const url = signal(new URL(location.href));

addEventListener("popstate", () => {
  url.value = new URL(location.href);
});

/** The current URL. */
export const address = computed(() => url.value);

/** The segments of the URL's path. */
export const path = computed(() => url.value.pathname.split("/").filter(Boolean).map(decode));

function decode(segment: string): string {
  try {
    return decodeURIComponent(segment);
  } catch {
    return segment;
  }
}

/** Navigates to another URL of the page. */
export function go(to: string, options: { replace?: boolean } = {}): void {
  const next = new URL(to, location.href);
  if (next.href === url.value.href) return;
  if (options.replace) history.replaceState(null, "", next);
  else history.pushState(null, "", next);
  url.value = next;
}

/** Makes links within the page navigate without reloading it. */
export function followLinks(): void {
  document.addEventListener("click", (event) => {
    if (event.defaultPrevented || event.button !== 0 || event.metaKey || event.ctrlKey || event.shiftKey) return;
    const link = (event.target as Element).closest?.("a[href]");
    if (!(link instanceof HTMLAnchorElement) || link.target || link.origin !== location.origin) return;
    if (link.pathname.startsWith("/api/")) return;
    // For a fragment of the current view, the browser scrolls and moves the focus.
    if (link.hash && link.pathname === location.pathname) return;
    event.preventDefault();
    go(link.href);
  });
}
