/** The access card: signing in, and what the reader's class may read. */

import { useSignal } from "@preact/signals";
import { RequestError } from "headwater-client";
import { className, isSignedIn, probe, signIn, welcome } from "../session";

/** Topics whose access differs between classes. */
const PROBED = [
  { topic: "mastodon/public", name: "Posts" },
  { topic: "coinbase/ticker/BTC-USD", name: "Prices" },
  { topic: "coinbase/matches/BTC-USD", name: "Trades" },
  { topic: "coinbase/level2/BTC-USD", name: "Books" },
] as const;

type Verdict = "pending" | "allowed" | Error;

/** The card. */
export function Access() {
  const text = useSignal("");
  const busy = useSignal(false);
  const failure = useSignal("");
  const verdicts = useSignal<Readonly<Record<string, Verdict>>>({});

  const submit = async (token: string | undefined) => {
    busy.value = true;
    failure.value = "";
    verdicts.value = {};
    try {
      await signIn(token);
      text.value = "";
    } catch (error) {
      failure.value = `The server rejected the token: ${error instanceof Error ? error.message : String(error)}`;
    }
    busy.value = false;
  };
  const check = async () => {
    verdicts.value = Object.fromEntries(PROBED.map(({ topic }) => [topic, "pending" as const]));
    await Promise.all(
      PROBED.map(async ({ topic }) => {
        const error = await probe(topic);
        verdicts.value = { ...verdicts.value, [topic]: error ?? "allowed" };
      }),
    );
  };

  return (
    <section class="card wide-card" aria-label="Access" id="sign-in">
      <header class="card-head">
        <h2>Access</h2>
        <span class="badge">{className.value ?? "…"}</span>
      </header>
      <div class="access">
        <form
          onSubmit={(event) => {
            event.preventDefault();
            void submit(text.value.trim());
          }}
        >
          <label for="token">Token</label>
          <div class="row">
            <input
              id="token"
              type="password"
              autocomplete="off"
              spellcheck={false}
              placeholder="eyJ…"
              value={text.value}
              aria-describedby="token-help token-failure"
              onInput={(event) => {
                text.value = event.currentTarget.value;
              }}
            />
            <button type="submit" class="button primary" disabled={busy.value || text.value.trim() === ""}>
              {busy.value ? "Signing in…" : "Sign in"}
            </button>
            {isSignedIn() && (
              <button type="button" class="button" disabled={busy.value} onClick={() => void submit(undefined)}>
                Sign out
              </button>
            )}
          </div>
          <p id="token-help" class="quiet small">
            You are <b>{welcome.value?.principal ?? "…"}</b>, class <b>{className.value ?? "…"}</b>. The page keeps a
            token until it is closed, and sends it only to this server. To create one, run{" "}
            <code>headwater token --class trader</code>.
          </p>
          <p id="token-failure" class="wrong" role="alert">
            {failure.value}
          </p>
        </form>
        <div>
          <div class="row">
            <h3>Topics that {className.value ?? "this class"} may read</h3>
            <button type="button" class="button small" onClick={() => void check()}>
              Check access
            </button>
          </div>
          <ul class="verdicts" aria-live="polite">
            {PROBED.map(({ topic, name }) => (
              <VerdictLine key={topic} name={name} topic={topic} verdict={verdicts.value[topic]} />
            ))}
          </ul>
        </div>
      </div>
    </section>
  );
}

function VerdictLine({ name, topic, verdict }: { name: string; topic: string; verdict: Verdict | undefined }) {
  const denied = verdict instanceof Error;
  const label =
    verdict === undefined
      ? "–"
      : verdict === "pending"
        ? "checking…"
        : denied
          ? isForbidden(verdict)
            ? "denied"
            : "rejected"
          : "allowed";
  return (
    <li>
      <span class="grow">
        <b>{name}</b>
        <code class="quiet small">{topic}</code>
        {denied && <span class="small">{verdict.message}</span>}
      </span>
      <span class={`badge ${denied ? "bad" : verdict === "allowed" ? "good" : ""}`}>{label}</span>
    </li>
  );
}

function isForbidden(error: Error): boolean {
  return error instanceof RequestError && error.code === "forbidden";
}
