"""The generated C header that compiles preprocessing constants and labels into the executable."""

from __future__ import annotations

from collections.abc import Sequence

from ofa_compile.bundle.preprocess import Preprocessing

HEADER_NAME = "network_meta.h"

_HEADER = """\
/* Generated: preprocessing and labels of one bundle. */
#ifndef OFA_NETWORK_META_H
#define OFA_NETWORK_META_H

#define OFA_MEAN {mean}
#define OFA_STD {std}
#define OFA_CROP_FRACTION {crop_fraction}
#define OFA_THREADS {threads}
#define OFA_NUM_LABELS {num_labels}
#define OFA_LABELS \\
{labels}

#endif
"""


def render_network_meta(
    preprocessing: Preprocessing, labels: Sequence[str], threads: int = 1
) -> str:
    """Return the text of `network_meta.h`, pure ASCII whatever the labels hold.

    `threads` is what the executable uses unless told otherwise.
    """
    quoted = [f"    {quote_c(label)}" for label in labels] or ['    ""']
    return _HEADER.format(
        mean=_initializer(preprocessing.mean),
        std=_initializer(preprocessing.std),
        crop_fraction=repr(float(preprocessing.crop_fraction)),
        threads=threads,
        num_labels=len(labels),
        labels="    { \\\n" + ", \\\n".join(quoted) + " \\\n    }",
    )


def quote_c(text: str) -> str:
    """Return a C string literal with the UTF-8 bytes of `text`.

    Octal escapes have at most three digits and so cannot swallow what follows; the question mark
    is escaped because strict C11 still knows trigraphs.
    """
    plain = set(range(0x20, 0x7F)) - set(b'"\\?')
    body = "".join(chr(byte) if byte in plain else f"\\{byte:03o}" for byte in text.encode())
    return f'"{body}"'


def _initializer(values: Sequence[float]) -> str:
    return "{" + ", ".join(f"{float(value)!r}f" for value in values) + "}"
