/** The notice that replaces data that the server does not provide. */

import { RequestError } from "headwater-client";
import { className } from "./session";

/** Explains why something is not shown and what the reader can do. */
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
      <strong>{what} require another class.</strong>
      <p>
        Your class is <b>{className.value ?? "unknown"}</b>. {sentence(error.message)}
      </p>
      <a class="button" href="/status#sign-in">
        Sign in
      </a>
    </div>
  );
}

/** A card with a title and the notice. */
export function NoticeCard({ title, error, what }: { title: string; error: Error; what: string }) {
  return (
    <section class="card">
      <header class="card-head">
        <h2>{title}</h2>
      </header>
      <Notice error={error} what={what} />
    </section>
  );
}

/** Makes a sentence of an error message. */
function sentence(text: string): string {
  const trimmed = text.trim();
  return `${trimmed.charAt(0).toUpperCase()}${trimmed.slice(1)}${/[.!?]$/.test(trimmed) ? "" : "."}`;
}
