/** Runs the real `headwater up`, which tests talk to over HTTP and WebSocket. */

import { type ChildProcess, execFileSync, spawn } from "node:child_process";
import { once } from "node:events";
import { existsSync } from "node:fs";
import { mkdtemp, rm } from "node:fs/promises";
import { createServer } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";

const ROOT = new URL("../../../", import.meta.url).pathname;

/** Signs the tokens of the tests. */
const JWT_SECRET = "a secret of tests, which is long enough";

/** Longest time that a start may take, in milliseconds. */
const STARTS_WITHIN_MS = 30_000;

/** What a server is started with. */
export interface Options {
  /** Keep the log in a folder, so that it outlives the process. */
  durable?: boolean;
  /** Trades a second over all pairs; a tenth as many posts. */
  rate?: number;
  seed?: number;
  /** Take tokens, so that classes differ in what they may do. */
  tokens?: boolean;
  /** Use these upstreams in place of simulated ones that live with the server. */
  upstreams?: Simulators;
  env?: Record<string, string>;
}

/** Returns the `headwater` command: that of the environment, or the one that was built last. */
export function binary(): string {
  const target = process.env["CARGO_TARGET_DIR"] ?? join(ROOT, "target");
  const places = [process.env["HEADWATER"], join(target, "debug/headwater"), join(target, "release/headwater")];
  const found = places.find((place) => place && existsSync(place));
  if (!found) throw new Error("there is no headwater command: cargo build --package local --bin headwater");
  return found;
}

/** Returns a port that was free a moment ago. */
export async function freePort(): Promise<number> {
  const server = createServer().listen(0, "127.0.0.1");
  await once(server, "listening");
  const address = server.address();
  server.close();
  await once(server, "close");
  if (address === null || typeof address === "string") throw new Error("a server without a port");
  return address.port;
}

/** A server that can be killed and started again at the same address. */
export class Headwater {
  readonly port: number;
  readonly #options: Options;
  readonly #dir: string | undefined;
  #process: ChildProcess | undefined;
  #log = "";

  private constructor(port: number, dir: string | undefined, options: Options) {
    this.port = port;
    this.#dir = dir;
    this.#options = options;
  }

  /** Starts a server and waits until it serves. */
  static async start(options: Options = {}): Promise<Headwater> {
    const dir = options.durable ? await mkdtemp(join(tmpdir(), "headwater-")) : undefined;
    const headwater = new Headwater(await freePort(), dir, options);
    await headwater.up();
    return headwater;
  }

  /** The page. */
  get url(): string {
    return `http://127.0.0.1:${this.port}`;
  }

  /** The WebSocket. */
  get socket(): string {
    return `ws://127.0.0.1:${this.port}/live`;
  }

  /** Starts it, again if it was killed. */
  async up(): Promise<void> {
    const { rate = 40, seed = 1, tokens = false, upstreams, env = {} } = this.#options;
    const simulated = ["--simulated", "--rate", `${rate}`, "--seed", `${seed}`];
    const child = spawn(binary(), ["up", ...(upstreams ? [] : simulated)], {
      env: {
        ...process.env,
        HEADWATER_LISTEN: `127.0.0.1:${this.port}`,
        HEADWATER_LOG: "warn",
        ...(tokens && { HEADWATER_JWT_SECRET: JWT_SECRET }),
        ...(this.#dir && { HEADWATER_DATA_DIR: this.#dir }),
        ...upstreams?.env,
        ...env,
      },
      stdio: ["ignore", "pipe", "pipe"],
    });
    this.#process = child;
    const note = (data: Buffer) => {
      this.#log = (this.#log + data).slice(-10_000);
    };
    child.stdout.on("data", note);
    child.stderr.on("data", note);
    const deadline = Date.now() + STARTS_WITHIN_MS;
    for (;;) {
      const healthy = await fetch(`${this.url}/healthz`).then(
        (response) => response.ok,
        () => false,
      );
      if (healthy) return;
      if (child.exitCode !== null || Date.now() > deadline) throw new Error(`headwater did not start: ${this.#log}`);
      await new Promise((resolve) => setTimeout(resolve, 50));
    }
  }

  /** Kills it at once, as a crash would. */
  async kill(): Promise<void> {
    const child = this.#process;
    if (!child || child.exitCode !== null || child.signalCode !== null) return;
    child.kill("SIGKILL");
    await once(child, "exit");
  }

  /** Ends it and removes what it kept. */
  async stop(): Promise<void> {
    await this.kill();
    if (this.#dir) await rm(this.#dir, { recursive: true, force: true });
  }

  /** Makes a token that the server takes. */
  token(className: string, term = "1h"): string {
    const args = ["token", "--class", className, "--term", term];
    return execFileSync(binary(), args, { env: { ...process.env, HEADWATER_JWT_SECRET: JWT_SECRET } })
      .toString()
      .trim();
  }
}

/** The simulated upstreams alone, whose faults can be switched. */
export class Simulators {
  readonly env: Record<string, string>;
  readonly #process: ChildProcess;
  readonly #ports: number[];

  private constructor(process: ChildProcess, ports: number[]) {
    this.#process = process;
    this.#ports = ports;
    const [coinbase, mastodon] = ports;
    this.env = {
      HEADWATER_COINBASE_URL: `ws://127.0.0.1:${coinbase}`,
      HEADWATER_COINBASE_REST_URL: `http://127.0.0.1:${coinbase}`,
      HEADWATER_MASTODON_SERVERS: `http://127.0.0.1:${mastodon}`,
      HEADWATER_MASTODON_TOKENS: "simulated-token",
      HEADWATER_COINBASE_RECORD: "BTC-USD",
    };
  }

  /** Starts both. */
  static async start(rate = 40): Promise<Simulators> {
    const ports = [await freePort(), await freePort()];
    const [coinbase, mastodon] = ports.map((port) => `127.0.0.1:${port}`);
    const args = [
      "simulate",
      "--rate",
      `${rate}`,
      "--coinbase-listen",
      `${coinbase}`,
      "--mastodon-listen",
      `${mastodon}`,
    ];
    const child = spawn(binary(), args, { stdio: ["ignore", "pipe", "ignore"] });
    await once(child.stdout, "data");
    return new Simulators(child, ports);
  }

  /** Turns a fault of the exchange on or off. */
  async fault(name: string, on: boolean): Promise<void> {
    const url = `http://127.0.0.1:${this.#ports[0]}/_simulator/faults/${name}`;
    const response = await fetch(url, { method: on ? "PUT" : "DELETE" });
    if (!response.ok) throw new Error(`the simulator does not take the fault ${name}: ${response.status}`);
  }

  /** Ends both. */
  stop(): void {
    this.#process.kill("SIGKILL");
  }
}
