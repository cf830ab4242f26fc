/** Where the reader is: the address is the only record of it, so every view can be linked to. */

import { computed, signal } from "@preact/signals";

const url = signal(new URL(location.href));

addEventListener("popstate", () => {
  url.value = new URL(location.href);
});

/** The address. */
export const address = computed(() => url.value);

/** The address's path, in parts. */
export const path = computed(() => url.value.pathname.split("/").filter(Boolean).map(decode));

function decode(part: string): string {
  try {
    return decodeURIComponent(part);
  } catch {
    return part;
  }
}

/** Goes to another address of the page. */
export function go(to: string, options: { replace?: boolean } = {}): void {
  const next = new URL(to, location.href);
  if (next.href === url.value.href) return;
  if (options.replace) history.replaceState(null, "", next);
  else history.pushState(null, "", next);
  url.value = next;
}

/** Follows links inside the page without loading it anew. */
export function followLinks(): void {
  document.addEventListener("click", (event) => {
    if (event.defaultPrevented || event.button !== 0 || event.metaKey || event.ctrlKey || event.shiftKey) return;
    const link = (event.target as Element).closest?.("a[href]");
    if (!(link instanceof HTMLAnchorElement) || link.target || link.origin !== location.origin) return;
    if (link.pathname.startsWith("/api/")) return;
    // The browser moves to a place of the same view by itself, and with it the focus.
    if (link.hash && link.pathname === location.pathname) return;
    event.preventDefault();
    go(link.href);
  });
}
