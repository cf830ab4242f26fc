/** A live column of posts. */

import { useSignal, useSignalEffect } from "@preact/signals";
import type { Post } from "headwater-client";
import { useMemo, useRef } from "preact/hooks";
import { CloseIcon, PauseIcon, PlayIcon, UpIcon } from "../icons";
import { Notice } from "../Notice";
import { connection } from "../session";
import { useTopic } from "../useTopic";
import { titleOf } from "./columns";
import { PostCard } from "./PostCard";
import { PostList } from "./post-list";
import { useVirtual } from "./useVirtual";

/** The number of posts that a column starts with. */
const LAST = 30;

/** How far the reader must scroll, in pixels, for the column to pause. */
const PAUSE_SCROLL_TOP = 24;

/** A column: the topic's posts, live or paused. */
export function Column({ topic, onRemove }: { topic: string; onRemove: () => void }) {
  const list = useMemo(() => new PostList(), []);
  const paused = useSignal(false);
  const scrolled = useSignal(false);
  const scroller = useRef<HTMLDivElement>(null);
  const error = useTopic(topic as `mastodon/${string}`, { last: LAST }, ({ event }) => list.apply(event));
  const title = titleOf(topic);
  const held = paused.value || scrolled.value;
  // It holds the list at once. After the next paint, the list could have moved.
  useSignalEffect(() => list.hold(paused.value || scrolled.value));

  const pause = () => {
    paused.value = true;
  };
  const release = () => {
    paused.value = false;
    // The pending posts are shown when the top is reached; before that, the list would keep its scroll position.
    scroller.current?.scrollTo({ top: 0 });
  };
  const onScroll = () => {
    scrolled.value = (scroller.current?.scrollTop ?? 0) > PAUSE_SCROLL_TOP;
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
          {held ? <PlayIcon /> : <PauseIcon />}
        </button>
        <button type="button" class="icon-button" aria-label={`Remove ${title}`} title="Remove" onClick={onRemove}>
          <CloseIcon />
        </button>
      </header>
      {error ? (
        <Notice error={error} what="These posts" />
      ) : (
        <div class="column-body">
          <button type="button" class="new-posts" hidden={!held || list.pending.value === 0} onClick={release}>
            <UpIcon /> {list.pending.value} new
          </button>
          {/* biome-ignore lint/a11y/useSemanticElements: it is not a group of form fields */}
          <div
            class="scroller"
            ref={scroller}
            onScroll={onScroll}
            // biome-ignore lint/a11y/noNoninteractiveTabindex: a scrollable element has to be reachable with the keyboard
            tabIndex={0}
            role="group"
            aria-label={`${title}, newest first`}
          >
            {list.posts.value.length > 0 ? (
              <List title={title} posts={list.posts.value} scroller={scroller} />
            ) : (
              <Empty received={list.received.value} />
            )}
          </div>
        </div>
      )}
    </section>
  );
}

function Empty({ received }: { received: boolean }) {
  if (received || connection.value.state !== "open") {
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
      No posts yet.
      <br />
      New posts appear here immediately.
    </p>
  );
}

function List(props: { title: string; posts: readonly Post[]; scroller: { current: HTMLDivElement | null } }) {
  const { title, posts, scroller } = props;
  const virtual = useVirtual(
    {
      count: posts.length,
      getScrollElement: () => scroller.current,
      getItemKey: (index) => posts[index]?.id ?? index,
      estimateSize: () => 180,
      overscan: 4,
    },
    PAUSE_SCROLL_TOP,
  );
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
