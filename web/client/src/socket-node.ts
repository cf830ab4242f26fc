/** Where WebSockets come from in Node: its own from version 22 on, before that the package `ws`. */

import { platformSocket as browserSocket, type SocketConstructor } from "./socket.js";

/** Returns Node's WebSocket, or that of `ws`. */
export async function platformSocket(): Promise<SocketConstructor> {
  if (typeof WebSocket !== "undefined") return browserSocket();
  // The name is not a literal, so that bundlers and type checkers do not ask for an optional package.
  const name = "ws";
  try {
    const { WebSocket: socket } = (await import(name)) as { WebSocket: SocketConstructor };
    return socket;
  } catch (cause) {
    throw new Error("Node before version 22 has no WebSocket: npm install ws", { cause });
  }
}
