/** A hook that follows a topic while a component is mounted. */

import { useSignal } from "@preact/signals";
import type { Delivery, EventOf, SubscribeOptions } from "headwater-client";
import { useEffect, useRef } from "preact/hooks";
import { className, follow } from "./session";

/**
 * Follows `topic`, and returns the error if the server rejects it. A rejected topic is requested again when the reader's
 * class changes.
 */
export function useTopic<T extends string>(
  topic: T,
  options: SubscribeOptions,
  listener: (delivery: Delivery<EventOf<T>>) => void,
  /** A changed value restarts the subscription. */
  round = 0,
): Error | undefined {
  const error = useSignal<Error | undefined>(undefined);
  const attempt = useSignal(0);
  const rejectedClass = useRef<string | undefined>(undefined);
  useEffect(() => {
    error.value = undefined;
    const onError = (reason: Error) => {
      rejectedClass.current = className.peek();
      error.value = reason;
    };
    return follow(topic, { ...options, onError }, listener);
  }, [topic, attempt.value, round]);
  const name = className.value;
  useEffect(() => {
    if (error.peek() && name !== rejectedClass.current) attempt.value += 1;
  }, [name]);
  return error.value;
}
