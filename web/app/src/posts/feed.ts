/** The posts of a column, newest first. */

import { signal } from "@preact/signals";
import type { Post, PostEvent } from "headwater-client";
import { atMostEvery } from "../frame";

/** Most posts that a column keeps; the oldest are forgotten. */
const KEPT = 600;

/** Most posts that wait while the reader reads; of more, the newest are kept. */
const WAITING = 300;

/** How often new posts are let in, in milliseconds: more often, and nobody could read. */
const LET_IN_EVERY_MS = 700;

/** A column's posts. */
export class Feed {
  /** What is shown. */
  readonly posts = signal<readonly Post[]>([]);
  /** How many have come since the reader began to read. */
  readonly waiting = signal(0);
  /** Whether anything was heard yet. */
  readonly heard = signal(false);
  #held = false;
  #incoming: Post[] = [];
  #missed = 0;
  readonly #letIn = atMostEvery(LET_IN_EVERY_MS, () => this.#merge());

  /** Takes an event. */
  take(event: PostEvent): void {
    this.heard.value = true;
    switch (event.type) {
      case "post":
        if (this.#isKnown(event.id)) return;
        this.#incoming.push(event);
        if (this.#incoming.length > WAITING) this.#incoming.shift();
        if (this.#held) this.waiting.value = this.#missed += 1;
        else this.#letIn();
        return;
      case "post.edited":
        this.#replace(event);
        return;
      case "post.deleted":
        this.#remove(event.id);
    }
  }

  /** Lets nothing in while the reader reads, and everything that waits when they are done. */
  hold(held: boolean): void {
    if (held === this.#held) return;
    this.#held = held;
    if (!held) this.#merge();
  }

  #merge(): void {
    if (this.#held) return;
    this.#missed = 0;
    this.waiting.value = 0;
    if (this.#incoming.length === 0) return;
    this.posts.value = [...this.#incoming.reverse(), ...this.posts.value].slice(0, KEPT);
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
      this.waiting.value = this.#missed -= 1;
    }
    if (!this.posts.value.every(other)) this.posts.value = this.posts.value.filter(other);
  }
}
