/** The WebSocket implementation of the platform. */

/** The part of a WebSocket that the client uses. */
export interface SocketLike {
  readonly readyState: number;
  send(text: string): void;
  close(code?: number, reason?: string): void;
  onopen: ((event: never) => void) | null;
  onmessage: ((event: never) => void) | null;
  onclose: ((event: never) => void) | null;
  onerror: ((event: never) => void) | null;
}

/** A constructor such as `WebSocket`. */
export type SocketConstructor = new (url: string, protocols?: string[]) => SocketLike;

/** Returns the platform's WebSocket. */
export function platformSocket(): Promise<SocketConstructor> {
  if (typeof WebSocket === "undefined") {
    return Promise.reject(new Error("this platform has no WebSocket; pass one in the option `WebSocket`"));
  }
  return Promise.resolve(WebSocket as unknown as SocketConstructor);
}
