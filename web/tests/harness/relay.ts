/** Stands between a client and a server, and makes trouble. */

import { once } from "node:events";
import { type RawData, WebSocket, WebSocketServer } from "ws";

/** A WebSocket relay. */
export class Relay {
  /** Send every message of the server twice. */
  duplicates = false;
  /** Drop every so many-th `events` message; 0 drops none. */
  drops = 0;
  /** Take what the server says, and pass nothing on. */
  silent = false;
  /** Connections that were accepted. */
  accepted = 0;
  /** `events` messages that were dropped. */
  dropped = 0;
  readonly #server: WebSocketServer;
  #seen = 0;

  private constructor(server: WebSocketServer, target: string) {
    this.#server = server;
    server.on("connection", (client, request) => {
      this.accepted += 1;
      const protocols = request.headers["sec-websocket-protocol"]?.split(",").map((name) => name.trim());
      const upstream = new WebSocket(target, protocols);
      const early: RawData[] = [];
      client.on("message", (data) => {
        if (upstream.readyState === WebSocket.OPEN) upstream.send(data.toString());
        else early.push(data);
      });
      upstream.on("open", () => {
        for (const data of early) upstream.send(data.toString());
      });
      upstream.on("message", (data) => this.#pass(client, data.toString()));
      upstream.on("error", () => client.terminate());
      upstream.on("close", () => client.terminate());
      client.on("close", () => upstream.terminate());
    });
  }

  /** Starts a relay in front of the WebSocket at `target`. */
  static async start(target: string): Promise<Relay> {
    const handleProtocols = (offered: Set<string>) => [...offered][0] ?? false;
    const server = new WebSocketServer({ host: "127.0.0.1", port: 0, handleProtocols });
    await once(server, "listening");
    return new Relay(server, target);
  }

  /** Where clients connect. */
  get url(): string {
    const address = this.#server.address();
    if (address === null || typeof address === "string") throw new Error("a relay without a port");
    return `ws://127.0.0.1:${address.port}/live`;
  }

  /** Cuts every connection without a goodbye. */
  cut(): void {
    for (const client of this.#server.clients) client.terminate();
  }

  /** Ends it. */
  stop(): void {
    this.cut();
    this.#server.close();
  }

  #pass(client: WebSocket, text: string): void {
    if (this.silent) return;
    if (text.startsWith('{"type":"events"')) {
      this.#seen += 1;
      if (this.drops > 0 && this.#seen % this.drops === 0) {
        this.dropped += 1;
        return;
      }
    }
    client.send(text);
    if (this.duplicates) client.send(text);
  }
}
