/** One post. */

import { useSignal } from "@preact/signals";
import type { Card, Emoji, Poll, Post } from "headwater-client";
import { useLayoutEffect, useRef } from "preact/hooks";
import { age, compact, moment } from "../format";
import { BoostIcon, HeartIcon, OutwardIcon, ReplyIcon } from "../icons";
import { now } from "../session";
import { split } from "./emoji";
import { sanitize } from "./html";
import { Gallery } from "./Media";

/** A post. It is folded first if it has a content warning. */
export function PostCard({ post }: { post: Post }) {
  const { contentWarning: warning, emojis = [] } = post;
  const folded = useSignal(warning !== undefined);
  return (
    <>
      <Byline post={post} />
      {warning !== undefined && (
        <div class="warning">
          <span dir="auto">
            <WithEmoji text={warning} emojis={emojis} />
          </span>
          <button
            type="button"
            class="button small"
            aria-expanded={!folded.value}
            onClick={() => {
              folded.value = !folded.value;
            }}
          >
            {folded.value ? "Show" : "Hide"}
          </button>
        </div>
      )}
      {!folded.value && (
        <>
          <Body html={post.html} emojis={emojis} language={post.language} />
          {post.truncated && <p class="quiet small">The post is too long to be shown in full.</p>}
          {post.poll && <PollView poll={post.poll} emojis={emojis} />}
          <Gallery media={post.media} sensitive={post.sensitive && warning === undefined} />
          {post.card && post.media.length === 0 && <CardView card={post.card} />}
        </>
      )}
      <footer class="post-foot">
        <Figure name="replies" value={post.replies}>
          <ReplyIcon />
        </Figure>
        <Figure name="boosts" value={post.boosts}>
          <BoostIcon />
        </Figure>
        <Figure name="likes" value={post.likes}>
          <HeartIcon />
        </Figure>
        <span class="spacer" />
        {post.language && (
          <span class="tag" title="Language">
            {post.language}
          </span>
        )}
        {isWeb(post.url) && (
          <a
            class="source"
            href={post.url}
            target="_blank"
            rel="noopener noreferrer nofollow"
            aria-label={`Open the post at ${post.server}`}
          >
            <span class="source-name">{post.server}</span> <OutwardIcon />
          </a>
        )}
      </footer>
    </>
  );
}

function Byline({ post }: { post: Post }) {
  const { author, emojis = [] } = post;
  return (
    <header class="byline">
      <Avatar post={post} />
      <div class="who">
        <span class="name" dir="auto">
          <bdi>
            <WithEmoji text={author.name} emojis={emojis} />
          </bdi>
          {author.bot && <span class="tag">bot</span>}
        </span>
        <span class="handle">@{author.handle}</span>
      </div>
      <span class="when">
        {post.editedAt && (
          <span class="edited" title={`Edited ${moment(post.editedAt)}`}>
            edited
          </span>
        )}
        <time dateTime={post.at} title={moment(post.at)}>
          {age(post.at, now.value)}
        </time>
      </span>
    </header>
  );
}

function Avatar({ post: { author } }: { post: Post }) {
  const letter = [...author.name.replace(/^[^\p{L}\p{N}]+/u, "")][0] ?? "?";
  let hue = 0;
  for (const char of author.handle) hue = (hue * 31 + (char.codePointAt(0) ?? 0)) % 360;
  return (
    <span class="avatar" style={{ "--hue": String(hue) }} aria-hidden="true">
      {letter.toUpperCase()}
      <DecorativeImage url={author.avatar} />
    </span>
  );
}

/** An image of another server. It disappears if it cannot be loaded. */
function DecorativeImage({ url }: { url: string | undefined }) {
  const failed = useSignal(false);
  if (!url?.startsWith("https:") || failed.value) return null;
  return (
    <img
      src={url}
      alt=""
      loading="lazy"
      decoding="async"
      referrerpolicy="no-referrer"
      onError={() => {
        failed.value = true;
      }}
    />
  );
}

function Body({ html, emojis, language }: { html: string; emojis: readonly Emoji[]; language: string | undefined }) {
  const element = useRef<HTMLDivElement>(null);
  // A layout effect runs before the list measures the height.
  useLayoutEffect(() => element.current?.replaceChildren(sanitize(html, emojis)), [html]);
  return <div class="body" ref={element} lang={language} dir="auto" />;
}

function WithEmoji({ text, emojis }: { text: string; emojis: readonly Emoji[] }) {
  return (
    <>
      {split(text, emojis).map((part, index) =>
        typeof part === "string" ? (
          part
        ) : (
          <img
            key={index}
            class="emoji"
            src={part.url}
            alt={`:${part.shortcode}:`}
            loading="lazy"
            referrerpolicy="no-referrer"
          />
        ),
      )}
    </>
  );
}

function PollView({ poll, emojis }: { poll: Poll; emojis: readonly Emoji[] }) {
  const voters = Math.max(1, poll.voters ?? poll.votes);
  const ends = poll.closesAt ? Date.parse(poll.closesAt) : undefined;
  return (
    <div class="poll">
      <ul>
        {poll.options.map(({ title, votes }, index) => {
          const share = votes === undefined ? undefined : votes / voters;
          return (
            <li key={index}>
              <span class="poll-bar" style={{ transform: `scaleX(${Math.min(1, share ?? 0).toFixed(3)})` }} />
              <span class="poll-title" dir="auto">
                <WithEmoji text={title} emojis={emojis} />
              </span>
              <span class="poll-share">{share === undefined ? "hidden" : `${Math.round(share * 100)}%`}</span>
            </li>
          );
        })}
      </ul>
      <p class="quiet small">
        {poll.votes} {poll.votes === 1 ? "vote" : "votes"}
        {poll.multiple && ", multiple choice"}
        {poll.closed || (ends !== undefined && ends < now.value) ? ", closed" : ", open"}
      </p>
    </div>
  );
}

function CardView({ card }: { card: Card }) {
  if (!isWeb(card.url)) return null;
  return (
    <a class="preview" href={card.url} target="_blank" rel="noopener noreferrer nofollow">
      <span class="preview-picture" aria-hidden="true">
        <DecorativeImage url={card.image} />
      </span>
      <span class="preview-text">
        <span class="quiet small">{card.provider ?? new URL(card.url).host}</span>
        <b dir="auto">{card.title}</b>
        {card.description && (
          <span class="small" dir="auto">
            {card.description}
          </span>
        )}
      </span>
    </a>
  );
}

function Figure(props: { name: string; value: number; children: preact.ComponentChildren }) {
  return (
    <span class="figure" title={`${props.value} ${props.name}`}>
      {props.children}
      <span aria-hidden="true">{props.value > 0 ? compact(props.value) : ""}</span>
      <span class="sr-only">
        {props.value} {props.name}
      </span>
    </span>
  );
}

function isWeb(url: string | undefined): url is string {
  return url !== undefined && /^https?:\/\//i.test(url);
}
