import { readFileSync } from "node:fs";
import type { Locator, Page } from "@playwright/test";
import { expect, open, rewriteMessages, rewritePosts, screenshot, test } from "./page.ts";

/** Hostile markup. The sources sanitize posts, but the page must not rely on it. */
const HOSTILE = [
  "<p>hello<script>window.owned=1</script></p>",
  '<p>look <img src=x onerror="window.owned=2"> here</p>',
  '<p><a href="javascript:window.owned=3" onclick="window.owned=4">a link</a></p>',
  '<p><a href="&#106;avascript&colon;window.owned=5">encoded</a></p>',
  '<a href="data:text/html;base64,PHNjcmlwdD5hbGVydCgxKTwvc2NyaXB0Pg==">data</a>',
  '<style>*{display:none!important}</style><p style="position:fixed;inset:0">over everything</p>',
  '<iframe srcdoc="<script>parent.owned=6</script>"></iframe>',
  "<svg onload=window.owned=7><animate onbegin=window.owned=8 attributeName=x dur=1s></svg>",
  "<math><mtext><table><mglyph><style><img src=x onerror=window.owned=9></style></mglyph></table></mtext></math>",
  '<form action="https://phish.example/"><input name=password autofocus onfocus=window.owned=10></form>',
  '<meta http-equiv=refresh content="0;url=https://away.example/"><base href="https://base.example/">',
  '<!--><img src=x onerror=window.owned=11>--><noscript><p title="</noscript><img src=x onerror=window.owned=12>">',
  '<p id="app" class="invisible top card" data-x="1">reuses ids and classes of the page</p>',
  "</p></div></body></html><p>closes elements of the page",
];

test("posts appear live, and only the visible ones are in the document", async ({ page, headwater }) => {
  await open(page, headwater, "/posts?c=public");
  const column = page.locator('[data-topic="mastodon/public"]');
  await expect(column.getByRole("article").first()).toBeVisible();
  const newest = await column.getByRole("article").first().getAttribute("data-id");
  await expect(column.locator('[aria-posinset="1"]')).not.toHaveAttribute("data-id", newest ?? "");
  await expect
    .poll(async () => Number(await column.locator("article").first().getAttribute("aria-setsize")))
    .toBeGreaterThan(40);
  expect(await column.locator("article").count()).toBeLessThan(25);
});

test("columns by language and server are added, linked to and removed", async ({ page, headwater }) => {
  await open(page, headwater, "/posts?c=public");
  await page.getByLabel("Kind of column").selectOption("lang");
  await page.getByRole("combobox", { name: "Language", exact: true }).fill("en");
  await page.getByRole("button", { name: "Add" }).click();
  const english = page.getByRole("region", { name: "English" });
  await expect(english.getByRole("article").first()).toBeVisible();
  await expect(english.locator(".body[lang|=en]").first()).toBeVisible();
  await expect(page).toHaveURL(/c=lang\/en&c=public/);
  await page.getByLabel("Kind of column").selectOption("server");
  await page.getByRole("combobox", { name: "Server", exact: true }).fill("not a server");
  await page.getByRole("button", { name: "Add" }).click();
  await expect(page.getByText("This is not a valid server.")).toBeVisible();
  await page.getByRole("button", { name: "Remove English" }).click();
  await expect(english).toHaveCount(0);
});

test("hostile markup in a post is harmless", async ({ page, headwater, violations }) => {
  let turn = 0;
  await rewriteMessages(
    page,
    rewritePosts((post) => {
      const html = HOSTILE[turn++ % HOSTILE.length];
      return {
        ...post,
        html,
        url: "javascript:window.owned=20",
        contentWarning: undefined,
        author: {
          handle: "<b>x</b>@y",
          name: "<img src=x onerror=window.owned=21> :x:",
          url: "javascript:1",
          avatar: "javascript:window.owned=22",
          bot: false,
        },
        emojis: [{ shortcode: "x", url: "javascript:window.owned=23" }],
        card: { url: "javascript:window.owned=24", title: "<script>window.owned=25</script>" },
        media: [{ type: "image", url: "javascript:window.owned=26", alt: '"><script>window.owned=27</script>' }],
      };
    }),
  );
  await open(page, headwater, "/posts?c=public");
  const column = page.locator('[data-topic="mastodon/public"]');
  await expect.poll(() => turn).toBeGreaterThan(HOSTILE.length * 2);
  await expect(column.locator("article").first()).toBeVisible();
  const found = await page.evaluate(() => ({
    owned: (window as { owned?: number }).owned,
    elements: document.querySelectorAll(
      "article :is(script, style, iframe, form, input, svg:not(.icon), math, meta, base, object)",
    ).length,
    handlers: [...document.querySelectorAll("article *")].filter((it) =>
      it.getAttributeNames().some((name) => name.startsWith("on")),
    ).length,
    links: [...document.querySelectorAll("article a[href]")].filter(
      (it) => !/^https?:/.test((it as HTMLAnchorElement).href),
    ).length,
    pictures: [...document.querySelectorAll("article img")].filter((it) => !it.classList.contains("emoji")).length,
    styled: document.querySelectorAll("article .body [style], article .body [id], article .body .top").length,
    apps: document.querySelectorAll("#app").length,
    names: document.querySelector("article .name")?.textContent,
  }));
  expect(found).toEqual({
    owned: undefined,
    elements: 0,
    handlers: 0,
    links: 0,
    pictures: 0,
    styled: 0,
    apps: 1,
    names: "<img src=x onerror=window.owned=21> :x:",
  });
  // The sanitizer parses the markup in a document of its own, where the content security policy reports it too.
  const unexpected = violations.filter((text) => /^(uncaught|dialog)/.test(text));
  violations.splice(0, violations.length, ...unexpected);
});

test("an edited post changes in place and a deleted post disappears", async ({ page, headwater }) => {
  let edit: string | undefined;
  let remove: string | undefined;
  await rewriteMessages(
    page,
    rewritePosts((post) => {
      const plain = { ...post, contentWarning: undefined, sensitive: false };
      if (edit) {
        const changed = {
          ...plain,
          type: "post.edited",
          id: edit,
          html: "<p>The corrected text</p>",
          editedAt: new Date().toISOString(),
        };
        edit = undefined;
        return changed;
      }
      if (remove) {
        const removed = { type: "post.deleted", id: remove, server: post["server"], at: post["at"] };
        remove = undefined;
        return removed;
      }
      return plain;
    }),
  );
  await open(page, headwater, "/posts?c=public");
  const column = page.getByRole("region", { name: "All posts" });
  await expect(column.locator("article").nth(1)).toBeVisible();
  await column.getByRole("button", { name: "Pause All posts" }).click();
  const id = await column.locator("article").nth(1).getAttribute("data-id");
  const post = column.locator(`article[data-id="${id}"]`);
  edit = id ?? "";
  await expect(post.getByText("The corrected text")).toBeVisible();
  await expect(post.getByText("edited", { exact: true })).toBeVisible();
  remove = id ?? "";
  await expect(post).toHaveCount(0);
});

/** Returns the post at the top of what the reader sees, and where its top is in the view. */
function topOfView(feed: Locator): Promise<[string | undefined, number]> {
  return feed.evaluate((it) => {
    const view = it.getBoundingClientRect();
    const posts = [...it.querySelectorAll<HTMLElement>("article")];
    const places = posts.map((post) => ({ id: post.dataset["id"], place: post.getBoundingClientRect() }));
    const seen = places.filter(({ place }) => place.bottom > view.top + 1);
    const [first] = seen.sort((one, other) => one.place.top - other.place.top);
    return [first?.id, Math.round((first?.place.top ?? 0) - view.top)];
  });
}

/** Scrolls down into a column, and waits until the scrolling has ended. */
async function scrollInto(page: Page, feed: Locator): Promise<void> {
  await expect.poll(() => feed.evaluate((it) => it.scrollHeight - it.clientHeight)).toBeGreaterThan(900);
  // At the edge: in its middle, there can be a long post, which scrolls by itself.
  await feed.hover({ position: { x: 4, y: 100 } });
  await page.mouse.wheel(0, 900);
  await expect.poll(() => feed.evaluate((it) => it.scrollTop)).toBeGreaterThan(800);
}

test("the list holds still while the reader scrolls, and counts the new posts", async ({ page, headwater }) => {
  await open(page, headwater, "/posts?c=public");
  const column = page.getByRole("region", { name: "All posts" });
  const feed = column.locator(".scroller");
  await scrollInto(page, feed);
  const newPosts = column.getByRole("button", { name: /^\d+ new$/ });
  await expect(newPosts).toBeVisible();
  const before = await topOfView(feed);
  const count = Number.parseInt((await newPosts.textContent()) ?? "", 10);
  await expect.poll(async () => Number.parseInt((await newPosts.textContent()) ?? "", 10)).toBeGreaterThan(count + 2);
  expect(await topOfView(feed)).toEqual(before);
  await newPosts.click();
  await expect(newPosts).toBeHidden();
  await expect(column.getByText("live", { exact: true })).toBeVisible();
  expect(await feed.evaluate((it) => it.scrollTop)).toBe(0);
});

test("the list holds still while a post above what the reader sees is deleted", async ({ page, headwater }) => {
  let remove: string | undefined;
  await rewriteMessages(
    page,
    rewritePosts((post) => {
      if (!remove) return post;
      const removed = { type: "post.deleted", id: remove, server: post["server"], at: post["at"] };
      remove = undefined;
      return removed;
    }),
  );
  await open(page, headwater, "/posts?c=public");
  const column = page.getByRole("region", { name: "All posts" });
  const feed = column.locator(".scroller");
  await scrollInto(page, feed);
  const before = await topOfView(feed);
  const size = () => column.locator("article").first().getAttribute("aria-setsize");
  const posts = Number(await size());
  // The first one that is rendered is above the view.
  const first = column.locator("article").first();
  const id = (await first.getAttribute("data-id")) ?? "";
  expect(id).not.toBe(before[0]);
  remove = id;
  await expect.poll(async () => Number(await size())).toBeLessThan(posts);
  expect(await topOfView(feed)).toEqual(before);
});

test("content warnings, polls, media and emoji are shown", async ({ page, headwater }) => {
  const media = {
    type: "image",
    url: "https://files.example/1.png",
    alt: "A river",
    width: 1200,
    height: 800,
    blurhash: "UKJRm?00~qxu4nRj%MRj_3t7IUxuRjWBt7xu",
  };
  const fixed: Record<string, unknown>[] = [
    { contentWarning: "spoilers <ahead>", html: "<p>the butler</p>" },
    {
      poll: {
        options: [
          { title: "Tabs", votes: 3 },
          { title: "Spaces", votes: 1 },
        ],
        multiple: false,
        votes: 4,
        voters: 4,
        closed: false,
      },
    },
    { media: [media], sensitive: true },
    { media: [{ ...media, type: "video", url: "https://files.example/1.mp4", preview: media.url }, media] },
    { html: "<p>hello :wave:</p>", emojis: [{ shortcode: "wave", url: "https://files.example/wave.png" }] },
    { card: { url: "https://news.example/story", title: "A story", provider: "News" } },
  ];
  // A post can come twice. It has the same kind both times, so that any six neighbors are of all six kinds.
  const kinds = new Map<unknown, number>();
  const kindOf = (id: unknown): number => {
    const kind = kinds.get(id) ?? kinds.size % fixed.length;
    kinds.set(id, kind);
    return kind;
  };
  const bare = { contentWarning: undefined, sensitive: false, media: [], poll: undefined, card: undefined };
  await rewriteMessages(
    page,
    rewritePosts((post) => ({ ...post, ...bare, ...fixed[kindOf(post["id"])] })),
  );
  // The window is so tall that the column shows a post of each kind without scrolling.
  await page.setViewportSize({ width: 1440, height: 5000 });
  await open(page, headwater, "/posts?c=public");
  const column = page.getByRole("region", { name: "All posts" });
  await expect
    .poll(async () => Number(await column.locator("article").first().getAttribute("aria-setsize")))
    .toBeGreaterThanOrEqual(2 * fixed.length);
  await column.getByRole("button", { name: "Pause All posts" }).click();
  const warned = column.locator("article", { hasText: "spoilers <ahead>" }).first();
  await expect(warned.getByText("the butler")).toBeHidden();
  await warned.getByRole("button", { name: "Show" }).click();
  await expect(warned.getByText("the butler")).toBeVisible();
  await expect(column.getByText("75%").first()).toBeAttached();
  await expect(column.getByRole("img", { name: ":wave:" }).first()).toBeAttached();
  const veiled = column.locator(".gallery.veiled").first();
  await expect(veiled.locator("img")).toHaveCount(0);
  await veiled.getByRole("button", { name: "Sensitive: show" }).click();
  await expect(column.getByRole("img", { name: "A river" }).first()).toBeAttached();
});

test("several columns update at the same time", async ({ page, headwater }) => {
  await open(page, headwater, "/posts?c=public&c=lang/en&c=lang/ja&c=lang/ar");
  // Only one post in twenty is in English.
  for (const name of ["All posts", "English"]) {
    await expect(page.getByRole("region", { name }).getByRole("article").nth(1)).toBeVisible({ timeout: 45_000 });
  }
  await screenshot(page, "posts");
  expect(readFileSync(new URL("../output/posts.png", import.meta.url)).length).toBeGreaterThan(10_000);
});
