/** The posts of a column, newest first. */

import { signal } from "@preact/signals";
import type { Post, PostEvent } from "headwater-client";
import { atMostEvery } from "../paint";

/** The most posts that a column retains. */
const MAX_POSTS = 600;

/** The most pending posts of a paused column. If there are more, the oldest are dropped. */
const MAX_PENDING = 300;

/** The shortest time between two updates of the list, in milliseconds. */
const UPDATE_EVERY_MS = 700;

/** The posts of one column. */
export class PostList {
  /** The posts that are shown. */
  readonly posts = signal<readonly Post[]>([]);
  /** The number of posts that have arrived since the list was paused. */
  readonly pending = signal(0);
  /** Whether an event has arrived. */
  readonly received = signal(false);
  #held = false;
  #incoming: Post[] = [];
  #pendingCount = 0;
  readonly #mergeSoon = atMostEvery(UPDATE_EVERY_MS, () => this.#merge());

  /** Applies an event. */
  apply(event: PostEvent): void {
    this.received.value = true;
    switch (event.type) {
      case "post":
        if (this.#isKnown(event.id)) return;
        this.#incoming.push(event);
        if (this.#incoming.length > MAX_PENDING) this.#incoming.shift();
        if (this.#held) this.pending.value = this.#pendingCount += 1;
        else this.#mergeSoon();
        return;
      case "post.edited":
        this.#replace(event);
        return;
      case "post.deleted":
        this.#remove(event.id);
    }
  }

  /** Pauses the list, or resumes it and shows the pending posts. Edits and deletions always apply. */
  hold(held: boolean): void {
    if (held === this.#held) return;
    this.#held = held;
    if (!held) this.#merge();
  }

  #merge(): void {
    if (this.#held) return;
    this.#pendingCount = 0;
    this.pending.value = 0;
    if (this.#incoming.length === 0) return;
    this.posts.value = [...this.#incoming.reverse(), ...this.posts.value].slice(0, MAX_POSTS);
    this.#incoming = [];
  }

  #isKnown(id: string): boolean {
    const same = (post: Post) => post.id === id;
    return this.#incoming.some(same) || this.posts.value.some(same);
  }

  #replace(edited: Post): void {
    const swap = (post: Post) => (post.id === edited.id ? edited : post);
    this.#incoming = this.#incoming.map(swap);
    if (this.posts.value.some(({ id }) => id === edited.id)) this.posts.value = this.posts.value.map(swap);
  }

  #remove(id: string): void {
    const other = (post: Post) => post.id !== id;
    const before = this.#incoming.length;
    this.#incoming = this.#incoming.filter(other);
    if (this.#incoming.length < before && this.#held) {
      this.pending.value = this.#pendingCount -= 1;
    }
    if (!this.posts.value.every(other)) this.posts.value = this.posts.value.filter(other);
  }
}
