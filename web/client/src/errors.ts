/** What can go wrong, as a program tells it apart. */

import type { ErrorCode } from "./protocol.js";

/** The server refused a request. */
export class RequestError extends Error {
  override readonly name = "RequestError";
  constructor(
    /** The kind of fault. */
    readonly code: ErrorCode,
    message: string,
    /** The topic that it is about. */
    readonly topic?: string,
  ) {
    super(message);
  }

  /** Whether the same request may succeed later. */
  get isRetryable(): boolean {
    return this.code === "rate_limited" || this.code === "unavailable" || this.code === "internal";
  }
}

/** The connection could not be made, or ended. The client connects anew by itself. */
export class ConnectionError extends Error {
  override readonly name = "ConnectionError";
  constructor(
    message: string,
    /** The WebSocket's close code, where there was one. */
    readonly code?: number,
    options?: ErrorOptions,
  ) {
    super(message, options);
  }
}

/** The token provider failed, or the server does not take its token. */
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

/** The REST interface answered with a problem (RFC 9457). */
export class ProblemError extends Error {
  override readonly name = "ProblemError";
  constructor(
    /** The HTTP status. */
    readonly status: number,
    detail: string,
    /** The names nearest to one that does not exist. */
    readonly nearest: readonly string[] = [],
  ) {
    super(detail);
  }
}
