/** The errors of the client, one class for each kind. */

import type { ErrorCode } from "./protocol.js";

/** The server rejected a request. */
export class RequestError extends Error {
  override readonly name = "RequestError";
  constructor(
    /** The kind of error. */
    readonly code: ErrorCode,
    message: string,
    /** The topic that the error concerns. */
    readonly topic?: string,
  ) {
    super(message);
  }

  /** Whether the same request may succeed later. */
  get isRetryable(): boolean {
    return this.code === "rate_limited" || this.code === "unavailable" || this.code === "internal";
  }
}

/** The connection failed or ended. The client reconnects by itself. */
export class ConnectionError extends Error {
  override readonly name = "ConnectionError";
  constructor(
    message: string,
    /** The WebSocket's close code, if there is one. */
    readonly code?: number,
    options?: ErrorOptions,
  ) {
    super(message, options);
  }
}

/** The token provider failed, or the server rejected its token. */
export class TokenError extends Error {
  override readonly name = "TokenError";
}

/** The client was closed. */
export class ClosedError extends Error {
  override readonly name = "ClosedError";
  constructor() {
    super("the client is closed");
  }
}

/** The REST interface responded with a problem (RFC 9457). */
export class ProblemError extends Error {
  override readonly name = "ProblemError";
  constructor(
    /** The HTTP status. */
    readonly status: number,
    detail: string,
    /** Existing names that are similar to an unknown one. */
    readonly nearest: readonly string[] = [],
  ) {
    super(detail);
  }
}
