/** What is shown in place of something that the server did not give. */

import { RequestError } from "headwater-client";
import { className } from "./session";

/** Says why something is not shown, and what can be done. */
export function Notice({ error, what }: { error: Error; what: string }) {
  const forbidden = error instanceof RequestError && error.code === "forbidden";
  if (!forbidden) {
    return (
      <div class="notice" role="alert">
        <strong>{what} cannot be shown.</strong>
        <p>{error.message}</p>
      </div>
    );
  }
  return (
    <div class="notice locked" role="status">
      <strong>{what} need another class.</strong>
      <p>
        You are <b>{className.value ?? "nobody yet"}</b>. {sentence(error.message)}
      </p>
      <a class="button" href="/status#sign-in">
        Sign in
      </a>
    </div>
  );
}

function sentence(text: string): string {
  const trimmed = text.trim();
  return `${trimmed.charAt(0).toUpperCase()}${trimmed.slice(1)}${/[.!?]$/.test(trimmed) ? "" : "."}`;
}
