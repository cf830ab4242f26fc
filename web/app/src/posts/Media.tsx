/** The attachments of a post. Their space is reserved, so nothing moves when they load or fail to load. */

import { useSignal } from "@preact/signals";
import { decodeBlurHash } from "fast-blurhash";
import type { Media } from "headwater-client";
import { useEffect, useRef } from "preact/hooks";

/** The side of the blurred placeholder, in pixels. The browser smooths it. */
const BLUR = 32;

/** The widest and the narrowest aspect ratio that is reserved for a single attachment. */
const ASPECT_RATIOS = { widest: 2.2, narrowest: 0.8 };

/** The attachments of a post. They are hidden first if the post is sensitive. */
export function Gallery({ media, sensitive }: { media: readonly Media[]; sensitive: boolean }) {
  const hidden = useSignal(sensitive);
  const loadable = media.filter(({ url, preview }) => isLoadable(url) || isLoadable(preview));
  const visual = loadable.filter(({ type }) => type !== "audio");
  // Audio players are below the images.
  const shown = [...visual, ...loadable.filter(({ type }) => type === "audio")];
  if (shown.length === 0) return null;
  return (
    <div class={`gallery n${Math.min(4, visual.length)} ${hidden.value ? "veiled" : ""}`}>
      {shown.slice(0, 4).map((attachment, index) => (
        <Attachment
          key={attachment.url ?? index}
          media={attachment}
          alone={shown.length === 1}
          veiled={hidden.value}
          more={index === 3 ? shown.length - 4 : 0}
        />
      ))}
      {hidden.value && (
        <button
          type="button"
          class="veil"
          onClick={() => {
            hidden.value = false;
          }}
        >
          Sensitive: show
        </button>
      )}
    </div>
  );
}

function Attachment(props: { media: Media; alone: boolean; veiled: boolean; more: number }) {
  const { media, alone, veiled, more } = props;
  const failed = useSignal(false);
  const ratio = media.width && media.height ? media.width / media.height : 16 / 9;
  const aspectRatio =
    alone && media.type !== "audio"
      ? Math.min(ASPECT_RATIOS.widest, Math.max(ASPECT_RATIOS.narrowest, ratio))
      : undefined;
  const image = isLoadable(media.preview) ? media.preview : media.url;
  const fail = () => {
    failed.value = true;
  };
  return (
    <figure class={`attachment ${media.type}`} style={aspectRatio ? { aspectRatio: String(aspectRatio) } : undefined}>
      {media.blurhash && <Blur hash={media.blurhash} />}
      {failed.value ? (
        <a class="failed" href={media.url ?? media.preview ?? ""} target="_blank" rel="noopener noreferrer nofollow">
          {media.alt ?? `The ${name(media)} could not be loaded`}
        </a>
      ) : veiled ? null : media.type === "video" || media.type === "gifv" ? (
        <video
          src={media.url}
          poster={media.preview}
          preload="none"
          controls
          loop={media.type === "gifv"}
          muted={media.type === "gifv"}
          playsInline
          aria-label={media.alt ?? name(media)}
          onError={fail}
        />
      ) : media.type === "audio" ? (
        <audio src={media.url} preload="none" controls aria-label={media.alt ?? name(media)} onError={fail} />
      ) : (
        <a href={media.url ?? image ?? ""} target="_blank" rel="noopener noreferrer nofollow">
          <img
            src={image}
            alt={media.alt ?? "Image without a description"}
            loading="lazy"
            decoding="async"
            referrerpolicy="no-referrer"
            onError={fail}
          />
        </a>
      )}
      {media.alt && !failed.value && !veiled && media.type !== "audio" && (
        <span class="alt-mark" title={media.alt} aria-hidden="true">
          ALT
        </span>
      )}
      {more > 0 && <figcaption class="more">+{more}</figcaption>}
    </figure>
  );
}

function Blur({ hash }: { hash: string }) {
  const canvas = useRef<HTMLCanvasElement>(null);
  useEffect(() => {
    const context = canvas.current?.getContext("2d");
    if (!context) return;
    try {
      const pixels = new Uint8ClampedArray(decodeBlurHash(hash, BLUR, BLUR));
      context.putImageData(new ImageData(pixels, BLUR, BLUR), 0, 0);
    } catch {
      // The hash is invalid; the plain background is shown.
    }
  }, [hash]);
  return <canvas class="blur" ref={canvas} width={BLUR} height={BLUR} />;
}

function isLoadable(url: string | undefined): url is string {
  return url?.startsWith("https:") ?? false;
}

function name({ type }: Media): string {
  return { image: "image", gifv: "animation", video: "video", audio: "audio file", unknown: "file" }[type];
}
