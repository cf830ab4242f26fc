/** The WebSocket implementation for Node: its own since version 22, otherwise the package `ws`. */

import { platformSocket as browserSocket, type SocketConstructor } from "./socket.js";

/** Returns the WebSocket of Node or of the package `ws`. */
export async function platformSocket(): Promise<SocketConstructor> {
  if (typeof WebSocket !== "undefined") return browserSocket();
  // A literal name would make bundlers and type checkers require the optional package.
  const name = "ws";
  try {
    const { WebSocket: socket } = (await import(name)) as { WebSocket: SocketConstructor };
    return socket;
  } catch (cause) {
    throw new Error("Node before version 22 has no WebSocket; run `npm install ws`", { cause });
  }
}
