import { readFileSync } from "node:fs";
import { between, expect, open, posts, shoot, test } from "./page.ts";

/** What strangers write, as no source would let it through: the page must not rely on that. */
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
  '<p id="app" class="invisible top card" data-x="1">takes the page\'s names</p>',
  "</p></div></body></html><p>closes what it did not open",
];

test("posts appear live, and the list stays short however many there are", async ({ page, headwater }) => {
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

test("columns by language, hashtag and server, and a link to them", async ({ page, headwater }) => {
  await open(page, headwater, "/posts?c=public");
  await page.getByLabel("Kind of column").selectOption("lang");
  await page.getByRole("combobox", { name: "Language", exact: true }).fill("de");
  await page.getByRole("button", { name: "Add" }).click();
  const german = page.getByRole("region", { name: "German" });
  await expect(german.getByRole("article").first()).toBeVisible();
  await expect(german.locator(".body[lang=de]").first()).toBeVisible();
  await expect(page).toHaveURL(/c=lang\/de&c=public/);
  await page.getByLabel("Kind of column").selectOption("server");
  await page.getByRole("combobox", { name: "Server", exact: true }).fill("not a server");
  await page.getByRole("button", { name: "Add" }).click();
  await expect(page.getByText("That is no server.")).toBeVisible();
  await page.getByRole("button", { name: "Remove German" }).click();
  await expect(german).toHaveCount(0);
});

test("a post with hostile markup does nothing", async ({ page, headwater, watched }) => {
  let turn = 0;
  await between(
    page,
    posts((post) => {
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
  // The sanitiser parses it in a document of its own, where the policy objects to it as well.
  const objections = watched.violations.filter((text) => !/^(uncaught|a dialog)/.test(text));
  watched.violations.splice(
    0,
    Number.POSITIVE_INFINITY,
    ...watched.violations.filter((text) => !objections.includes(text)),
  );
});

test("an edited post changes in its place, and a deleted one vanishes", async ({ page, headwater }) => {
  let edit: string | undefined;
  let remove: string | undefined;
  await between(
    page,
    posts((post) => {
      const plain = { ...post, contentWarning: undefined, sensitive: false };
      if (edit) {
        const changed = {
          ...plain,
          type: "post.edited",
          id: edit,
          html: "<p>What was meant</p>",
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
  await column.getByRole("button", { name: "Pause All posts" }).click();
  const id = await column.locator("article").nth(1).getAttribute("data-id");
  const post = column.locator(`article[data-id="${id}"]`);
  edit = id ?? "";
  await expect(post.getByText("What was meant")).toBeVisible();
  await expect(post.getByText("edited", { exact: true })).toBeVisible();
  remove = id ?? "";
  await expect(post).toHaveCount(0);
});

test("a reader who scrolls is not disturbed, and is told what is new", async ({ page, headwater }) => {
  await open(page, headwater, "/posts?c=public");
  const column = page.getByRole("region", { name: "All posts" });
  await expect(column.getByRole("article").nth(3)).toBeVisible();
  const feed = column.locator(".scroller");
  await feed.hover();
  await page.mouse.wheel(0, 900);
  const fresh = column.getByRole("button", { name: /^\d+ new$/ });
  await expect(fresh).toBeVisible();
  const place = () => feed.evaluate((it) => [it.scrollTop, it.querySelector("article")?.getAttribute("data-id")]);
  const before = await place();
  const count = Number.parseInt((await fresh.textContent()) ?? "", 10);
  await expect.poll(async () => Number.parseInt((await fresh.textContent()) ?? "", 10)).toBeGreaterThan(count + 2);
  expect(await place()).toEqual(before);
  await fresh.click();
  await expect(fresh).toBeHidden();
  await expect(column.getByText("live", { exact: true })).toBeVisible();
  expect(await feed.evaluate((it) => it.scrollTop)).toBe(0);
});

test("warnings, polls, media and emoji", async ({ page, headwater }) => {
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
  let turn = 0;
  const bare = { contentWarning: undefined, sensitive: false, media: [], poll: undefined, card: undefined };
  await between(
    page,
    posts((post) => ({ ...post, ...bare, ...fixed[turn++ % fixed.length] })),
  );
  await open(page, headwater, "/posts?c=public");
  const column = page.getByRole("region", { name: "All posts" });
  await column.getByRole("button", { name: "Pause All posts" }).click();
  const warned = column.locator("article", { hasText: "spoilers <ahead>" }).first();
  await warned.scrollIntoViewIfNeeded();
  await expect(warned.getByText("the butler")).toBeHidden();
  await warned.getByRole("button", { name: "Show" }).click();
  await expect(warned.getByText("the butler")).toBeVisible();
  await expect(column.getByText("75%").first()).toBeAttached();
  await expect(column.getByRole("img", { name: ":wave:" }).first()).toBeAttached();
  const veiled = column.locator(".gallery.veiled").first();
  await veiled.scrollIntoViewIfNeeded();
  await expect(veiled.locator("img")).toHaveCount(0);
  await veiled.getByRole("button", { name: "Sensitive: show" }).click();
  await expect(column.getByRole("img", { name: "A river" }).first()).toBeAttached();
});

test("many columns at once", async ({ page, headwater }) => {
  await open(page, headwater, "/posts?c=public&c=lang/en&c=lang/ja&c=lang/ar");
  for (const name of ["All posts", "English"]) {
    await expect(page.getByRole("region", { name }).getByRole("article").nth(1)).toBeVisible();
  }
  await shoot(page, "posts");
  expect(readFileSync(new URL("../output/posts.png", import.meta.url)).length).toBeGreaterThan(10_000);
});
