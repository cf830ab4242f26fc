/** Signing in, and what the reader's class may do. */

import { useSignal } from "@preact/signals";
import { RequestError } from "headwater-client";
import { className, isSignedIn, probe, signIn, welcome } from "../session";

/** Topics that classes differ in. */
const PROBED = [
  { topic: "mastodon/public", name: "Posts" },
  { topic: "coinbase/ticker/BTC-USD", name: "Prices" },
  { topic: "coinbase/matches/BTC-USD", name: "Trades" },
  { topic: "coinbase/level2/BTC-USD", name: "Books" },
] as const;

type Verdict = "asking" | "allowed" | Error;

/** Who the reader is, and what that allows. */
export function Access() {
  const text = useSignal("");
  const busy = useSignal(false);
  const failure = useSignal("");
  const verdicts = useSignal<Readonly<Record<string, Verdict>>>({});

  const use = async (token: string | undefined) => {
    busy.value = true;
    failure.value = "";
    verdicts.value = {};
    try {
      await signIn(token);
      text.value = "";
    } catch (error) {
      failure.value = `The server did not take the token: ${error instanceof Error ? error.message : String(error)}`;
    }
    busy.value = false;
  };
  const ask = async () => {
    verdicts.value = Object.fromEntries(PROBED.map(({ topic }) => [topic, "asking" as const]));
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
            void use(text.value.trim());
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
              {busy.value ? "One moment…" : "Sign in"}
            </button>
            {isSignedIn() && (
              <button type="button" class="button" disabled={busy.value} onClick={() => void use(undefined)}>
                Sign out
              </button>
            )}
          </div>
          <p id="token-help" class="quiet small">
            You are <b>{welcome.value?.principal ?? "…"}</b>, class <b>{className.value ?? "…"}</b>. A token is kept
            until this page is closed, and sent to this server only. <code>headwater token --class trader</code> makes
            one.
          </p>
          <p id="token-failure" class="wrong" role="alert">
            {failure.value}
          </p>
        </form>
        <div>
          <div class="row">
            <h3>What {className.value ?? "this class"} may follow</h3>
            <button type="button" class="button small" onClick={() => void ask()}>
              Ask the server
            </button>
          </div>
          <ul class="verdicts" aria-live="polite">
            {PROBED.map(({ topic, name }) => (
              <Line key={topic} name={name} topic={topic} verdict={verdicts.value[topic]} />
            ))}
          </ul>
        </div>
      </div>
    </section>
  );
}

function Line({ name, topic, verdict }: { name: string; topic: string; verdict: Verdict | undefined }) {
  const denied = verdict instanceof Error;
  const word =
    verdict === undefined
      ? "–"
      : verdict === "asking"
        ? "asking…"
        : denied
          ? isForbidden(verdict)
            ? "denied"
            : "refused"
          : "allowed";
  return (
    <li>
      <span class="grow">
        <b>{name}</b>
        <code class="quiet small">{topic}</code>
        {denied && <span class="small">{verdict.message}</span>}
      </span>
      <span class={`badge ${denied ? "bad" : verdict === "allowed" ? "good" : ""}`}>{word}</span>
    </li>
  );
}

function isForbidden(error: Error): boolean {
  return error instanceof RequestError && error.code === "forbidden";
}
