/** What this browser keeps for the next visit: how the page looks, and what it shows. Nothing of it is sent anywhere. */

import { type Signal, signal } from "@preact/signals";

/** Returns a signal that starts with what was kept, if `valid` says that it still makes sense. */
export function kept<T>(key: string, fallback: T, valid: (value: unknown) => value is T): Signal<T> {
  const name = `headwater.${key}`;
  let start = fallback;
  try {
    const value: unknown = JSON.parse(localStorage.getItem(name) ?? "null");
    if (valid(value)) start = value;
  } catch {
    // Storage can be forbidden, or hold what another version wrote.
  }
  const it = signal(start);
  let first = true;
  it.subscribe((value) => {
    if (first) {
      first = false;
      return;
    }
    try {
      localStorage.setItem(name, JSON.stringify(value));
    } catch {
      // Then it is kept until the page is left.
    }
  });
  return it;
}

/** Whether a value is a list of texts. */
export function isTexts(value: unknown): value is string[] {
  return Array.isArray(value) && value.every((one) => typeof one === "string");
}
