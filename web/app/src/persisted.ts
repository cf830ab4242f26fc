/** Settings that the browser keeps for the next visit: the theme, the pairs and the columns. They are never sent. */

import { type Signal, signal } from "@preact/signals";

/** Returns a signal that starts with the stored value, or with `fallback` if `valid` rejects the stored value. */
export function persisted<T>(key: string, fallback: T, valid: (value: unknown) => value is T): Signal<T> {
  const name = `headwater.${key}`;
  let start = fallback;
  try {
    const value: unknown = JSON.parse(localStorage.getItem(name) ?? "null");
    if (valid(value)) start = value;
  } catch {
    // The storage can be disabled, or hold a value of another version.
  }
  const setting = signal(start);
  let first = true;
  setting.subscribe((value) => {
    if (first) {
      first = false;
      return;
    }
    try {
      localStorage.setItem(name, JSON.stringify(value));
    } catch {
      // Without storage the value lasts until the page is closed.
    }
  });
  return setting;
}

/** Returns whether a value is a list of strings. */
export function isStrings(value: unknown): value is string[] {
  return Array.isArray(value) && value.every((item) => typeof item === "string");
}
