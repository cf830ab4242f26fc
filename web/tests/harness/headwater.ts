/** Runs the real `headwater up`, which the tests reach over HTTP and WebSocket. */

import { type ChildProcess, execFileSync, spawn } from "node:child_process";
import { once } from "node:events";
import { existsSync } from "node:fs";
import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";

const ROOT = new URL("../../../", import.meta.url).pathname;

/** The secret that signs the tokens of the tests. */
const JWT_SECRET = "a secret for the tests, which is long enough";

/** The longest time that a server may take to start, in milliseconds. */
const START_TIMEOUT_MS = 30_000;

/** The settings of a server. */
export interface ServerOptions {
  /** Keeps the database in a folder, so that it outlives the process. */
  durable?: boolean;
  /** Trades a second over all pairs; there are a tenth as many posts. */
  rate?: number;
  /** Accepts tokens, so that classes differ in what they may do. */
  tokens?: boolean;
}

/** Returns the path of the `headwater` command: the one in `HEADWATER`, or a build in the target folder. */
function binary(): string {
  const target = process.env["CARGO_TARGET_DIR"] ?? join(ROOT, "target");
  const candidates = [process.env["HEADWATER"], join(target, "debug/headwater"), join(target, "release/headwater")];
  const found = candidates.find((path) => path && existsSync(path));
  if (!found) throw new Error("the headwater command is not built: cargo build --package local --bin headwater");
  return found;
}

/** A server that can be killed and restarted at the same address. */
export class HeadwaterServer {
  readonly #options: ServerOptions;
  readonly #dir: string | undefined;
  #process: ChildProcess | undefined;
  /** `127.0.0.1:0` until the server has chosen a port. */
  #address = "127.0.0.1:0";

  private constructor(options: ServerOptions, dir: string | undefined) {
    this.#options = options;
    this.#dir = dir;
  }

  /** Starts a server and waits until it is ready. */
  static async start(options: ServerOptions = {}): Promise<HeadwaterServer> {
    const dir = options.durable ? await mkdtemp(join(tmpdir(), "headwater-")) : undefined;
    const server = new HeadwaterServer(options, dir);
    await server.launch();
    return server;
  }

  /** The URL of the page. */
  get url(): string {
    return `http://${this.#address}`;
  }

  /** The URL of the WebSocket. */
  get socketUrl(): string {
    return `ws://${this.#address}/live`;
  }

  /**
   * Launches the process. The first launch listens on a free port, which the server chooses and prints; every later
   * launch uses the same port.
   */
  async launch(): Promise<void> {
    const { rate = 40, tokens = false } = this.#options;
    const child = spawn(binary(), ["up", "--simulated", "--rate", `${rate}`], {
      env: {
        ...process.env,
        HEADWATER_LISTEN: this.#address,
        HEADWATER_LOG: "warn",
        ...(tokens && { HEADWATER_JWT_SECRET: JWT_SECRET }),
        ...(this.#dir && { HEADWATER_DATA_DIR: this.#dir }),
      },
      stdio: ["ignore", "pipe", "pipe"],
    });
    this.#process = child;
    this.#address = await listenAddress(child);
  }

  /** Kills the process at once, as a crash would. */
  async kill(): Promise<void> {
    const child = this.#process;
    if (!child || child.exitCode !== null || child.signalCode !== null) return;
    child.kill("SIGKILL");
    await once(child, "exit");
  }

  /** Kills the process and removes its database. */
  async stop(): Promise<void> {
    await this.kill();
    if (this.#dir) await rm(this.#dir, { recursive: true, force: true });
  }

  /** Returns a token that the server accepts. */
  token(className: string): string {
    const args = ["token", "--class", className, "--term", "1h"];
    return execFileSync(binary(), args, { env: { ...process.env, HEADWATER_JWT_SECRET: JWT_SECRET } })
      .toString()
      .trim();
  }
}

/** Waits until a server is ready, and returns the address that it prints then. */
function listenAddress(child: ChildProcess): Promise<string> {
  return new Promise((resolve, reject) => {
    let output = "";
    const fail = (reason: string) => {
      clearTimeout(timeout);
      child.kill("SIGKILL");
      reject(new Error(`headwater did not start: ${reason}: ${output}`));
    };
    const timeout = setTimeout(() => fail(`no address after ${START_TIMEOUT_MS} ms`), START_TIMEOUT_MS);
    const read = (data: Buffer) => {
      output = (output + data).slice(-10_000);
      const address = /http:\/\/(127\.0\.0\.1:\d+)\//.exec(output)?.[1];
      if (address === undefined) return;
      clearTimeout(timeout);
      resolve(address);
    };
    child.stdout?.on("data", read);
    child.stderr?.on("data", read);
    child.once("error", (error) => fail(error.message));
    child.once("exit", (code) => fail(`exit code ${code}`));
  });
}
