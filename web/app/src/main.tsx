/** Starts the page. */

import "./styles/base.css";
import "./styles/frame.css";
import "./styles/market.css";
import "./styles/posts.css";
import "./styles/status.css";
import "./styles/phone.css";
import { signal } from "@preact/signals";
import { render } from "preact";
import { startPairs } from "./market/pairs";
import { followLinks } from "./router";
import { Shell } from "./Shell";
import { start } from "./session";
import "./theme";

const ready = signal(false);

function Page() {
  return <Shell ready={ready.value} />;
}

const root = document.getElementById("app");
if (!root) throw new Error("the document has no #app element");
followLinks();
render(<Page />, root);
await start();
startPairs();
ready.value = true;
