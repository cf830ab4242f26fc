/** What is attached to a post. Its place is kept free from the start, so nothing moves when it loads or fails. */

import { useSignal } from "@preact/signals";
import { decodeBlurHash } from "fast-blurhash";
import type { Media } from "headwater-client";
import { useEffect, useRef } from "preact/hooks";

/** Side of the blurred stand-in, in pixels; the browser smooths it. */
const BLUR = 32;

/** Widest and narrowest shape that is kept free for a single attachment. */
const SHAPES = { widest: 2.2, narrowest: 0.8 };

/** The attachments of a post, hidden first where it is a sensitive one. */
export function Gallery({ media, sensitive }: { media: readonly Media[]; sensitive: boolean }) {
  const hidden = useSignal(sensitive);
  const loadable = media.filter(({ url, preview }) => isLoadable(url) || isLoadable(preview));
  const seen = loadable.filter(({ type }) => type !== "audio");
  // Recordings are bars below the pictures.
  const shown = [...seen, ...loadable.filter(({ type }) => type === "audio")];
  if (shown.length === 0) return null;
  return (
    <div class={`gallery n${Math.min(4, seen.length)} ${hidden.value ? "veiled" : ""}`}>
      {shown.slice(0, 4).map((one, index) => (
        <Attachment
          key={one.url ?? index}
          media={one}
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
  const shape =
    alone && media.type !== "audio" ? Math.min(SHAPES.widest, Math.max(SHAPES.narrowest, ratio)) : undefined;
  const still = isLoadable(media.preview) ? media.preview : media.url;
  const fail = () => {
    failed.value = true;
  };
  return (
    <figure class={`attachment ${media.type}`} style={shape ? { aspectRatio: String(shape) } : undefined}>
      {media.blurhash && <Blur hash={media.blurhash} />}
      {failed.value ? (
        <a class="failed" href={media.url ?? media.preview ?? ""} target="_blank" rel="noopener noreferrer nofollow">
          {media.alt ?? `This ${name(media)} cannot be loaded`}
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
        <a href={media.url ?? still ?? ""} target="_blank" rel="noopener noreferrer nofollow">
          <img
            src={still}
            alt={media.alt ?? "Picture without a description"}
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
      // Its server wrote nonsense; the background does as well.
    }
  }, [hash]);
  return <canvas class="blur" ref={canvas} width={BLUR} height={BLUR} />;
}

function isLoadable(url: string | undefined): url is string {
  return url?.startsWith("https:") ?? false;
}

function name({ type }: Media): string {
  return { image: "picture", gifv: "animation", video: "video", audio: "recording", unknown: "file" }[type];
}
