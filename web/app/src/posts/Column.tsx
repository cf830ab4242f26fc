/** A live column of posts. */

import { useSignal } from "@preact/signals";
import type { Post } from "headwater-client";
import { useEffect, useMemo, useRef } from "preact/hooks";
import { Close, Pause, Play, Up } from "../icons";
import { Notice } from "../Notice";
import { link } from "../session";
import { useTopic } from "../useTopic";
import { titleOf } from "./columns";
import { Feed } from "./feed";
import { PostCard } from "./PostCard";
import { useVirtual } from "./useVirtual";

/** Posts that a column starts with. */
const LAST = 30;

/** How far from the top, in pixels, a reader counts as one who reads. */
const NEAR_TOP = 24;

/** A column: the topic's posts as they come, or as they were when the reader began to read. */
export function Column({ topic, onRemove }: { topic: string; onRemove: () => void }) {
  const feed = useMemo(() => new Feed(), []);
  const paused = useSignal(false);
  const away = useSignal(false);
  const scroller = useRef<HTMLDivElement>(null);
  const error = useTopic(topic as `mastodon/${string}`, true, { last: LAST }, ({ event }) => feed.take(event));
  const title = titleOf(topic);
  const held = paused.value || away.value;
  useEffect(() => feed.hold(held), [held]);

  const pause = () => {
    paused.value = true;
  };
  const release = () => {
    paused.value = false;
    // What waits is let in once the top has been reached: before, the list would hold its place.
    scroller.current?.scrollTo({ top: 0 });
  };
  const onScroll = () => {
    away.value = (scroller.current?.scrollTop ?? 0) > NEAR_TOP;
  };

  return (
    <section class="column card" aria-label={title} data-topic={topic}>
      <header class="card-head">
        <h2 title={topic}>{title}</h2>
        <span class={`live-mark ${held ? "held" : ""}`}>{held ? "paused" : "live"}</span>
        <span class="spacer" />
        <button
          type="button"
          class="icon-button"
          aria-label={held ? `Resume ${title}` : `Pause ${title}`}
          title={held ? "Resume" : "Pause"}
          onClick={held ? release : pause}
        >
          {held ? <Play /> : <Pause />}
        </button>
        <button type="button" class="icon-button" aria-label={`Remove ${title}`} title="Remove" onClick={onRemove}>
          <Close />
        </button>
      </header>
      {error ? (
        <Notice error={error} what="These posts" />
      ) : (
        <div class="column-body">
          <button type="button" class="new-posts" hidden={!held || feed.waiting.value === 0} onClick={release}>
            <Up /> {feed.waiting.value} new
          </button>
          {/* biome-ignore lint/a11y/useSemanticElements: it is no group of a form's fields */}
          <div
            class="scroller"
            ref={scroller}
            onScroll={onScroll}
            // biome-ignore lint/a11y/noNoninteractiveTabindex: what scrolls has to be reachable with the keyboard
            tabIndex={0}
            role="group"
            aria-label={`${title}, newest first`}
          >
            {feed.posts.value.length > 0 ? (
              <List title={title} posts={feed.posts.value} scroller={scroller} />
            ) : (
              <Empty heard={feed.heard.value} />
            )}
          </div>
        </div>
      )}
    </section>
  );
}

function Empty({ heard }: { heard: boolean }) {
  if (heard || link.value.state !== "open") {
    return (
      <div class="empty">
        {Array.from({ length: 4 }, (_, index) => (
          <div key={index} class="ghost" />
        ))}
      </div>
    );
  }
  return (
    <p class="empty quiet">
      Nothing yet.
      <br />
      Posts appear here as they are written.
    </p>
  );
}

function List(props: { title: string; posts: readonly Post[]; scroller: { current: HTMLDivElement | null } }) {
  const { title, posts, scroller } = props;
  const virtual = useVirtual({
    count: posts.length,
    getScrollElement: () => scroller.current,
    getItemKey: (index) => posts[index]?.id ?? index,
    estimateSize: () => 180,
    overscan: 4,
  });
  return (
    <div class="sizer" role="feed" aria-label={title} style={{ height: `${virtual.getTotalSize()}px` }}>
      {virtual.getVirtualItems().map(({ key, index, start }) => {
        const post = posts[index];
        if (!post) return null;
        return (
          <article
            key={key}
            class="post"
            ref={(element) => virtual.measureElement(element)}
            data-index={index}
            data-id={post.id}
            aria-posinset={index + 1}
            aria-setsize={posts.length}
            aria-label={`${post.author.name}: ${post.contentWarning ?? post.text.slice(0, 80)}`}
            style={{ transform: `translateY(${start}px)` }}
          >
            <PostCard post={post} />
          </article>
        );
      })}
    </div>
  );
}
