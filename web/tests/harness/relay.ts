/** A WebSocket relay between a client and a server that injects network faults. */

import { once } from "node:events";
import { type RawData, WebSocket, WebSocketServer } from "ws";

/** A relay in front of one server. */
export class Relay {
  /** Sends every message of the server twice. */
  duplicates = false;
  /** Drops every nth `events` message; 0 drops none. */
  dropEvery = 0;
  /** Reads the server's messages but forwards none. */
  silent = false;
  /** The number of accepted connections. */
  accepted = 0;
  /** The number of dropped `events` messages. */
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
      upstream.on("message", (data) => this.#forward(client, data.toString()));
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

  /** The URL that clients connect to. */
  get url(): string {
    const address = this.#server.address();
    if (address === null || typeof address === "string") throw new Error("the relay has no port");
    return `ws://127.0.0.1:${address.port}/live`;
  }

  /** Terminates every connection without a close handshake. */
  cut(): void {
    for (const client of this.#server.clients) client.terminate();
  }

  /** Stops the relay and terminates its connections. */
  stop(): void {
    this.cut();
    this.#server.close();
  }

  #forward(client: WebSocket, text: string): void {
    if (this.silent) return;
    if (text.startsWith('{"type":"events"')) {
      this.#seen += 1;
      if (this.dropEvery > 0 && this.#seen % this.dropEvery === 0) {
        this.dropped += 1;
        return;
      }
    }
    client.send(text);
    if (this.duplicates) client.send(text);
  }
}
