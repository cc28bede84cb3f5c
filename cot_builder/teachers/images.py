"""A row's picture as it is sent: read once, digested once, encoded once per size."""

from __future__ import annotations

import asyncio
from pathlib import Path

from PIL import Image

from pipeline.data.images import ImageError, encode_picture, open_rgb, picture_digest, plain_jpeg
from pipeline.system import chat_api

ENCODING = "jpeg-as-is-or-hamming-q92"
"""Part of the journal key: a change of how pictures are sent changes what the teacher sees."""


class TeacherImage:
    """The picture of one row, shared by every request about it.

    Args:
        path: the file.
        digest: sha256 of its bytes, where it is known already.
    """

    def __init__(self, path: Path, digest: str | None = None) -> None:
        self.path = path
        self._digest = digest
        self._urls: dict[int, asyncio.Task[str]] = {}

    @property
    def is_read(self) -> bool:
        """Whether the digest is known, so that asking for it reads nothing."""
        return self._digest is not None

    @property
    def digest(self) -> str:
        """sha256 of the file's bytes.

        Raises:
            ImageError: when it cannot be read.
        """
        if self._digest is None:
            self._digest = picture_digest(self.path)
        return self._digest

    async def data_url(self, longest_side: int) -> str:
        """Return the picture as a JPEG data URL, scaled down so that no side is longer than `longest_side` pixels.

        Raises:
            ImageError: when it cannot be read.
        """
        if longest_side not in self._urls:
            self._urls[longest_side] = asyncio.create_task(asyncio.to_thread(self._encode, longest_side))
        # One caller's cancellation is not the others'.
        return await asyncio.shield(self._urls[longest_side])

    def _encode(self, longest_side: int) -> str:
        url = data_url(self.path, longest_side)
        # The request is recorded under the digest that was read before.
        if self._digest is not None and picture_digest(self.path) != self._digest:
            raise ImageError("missing_image", self.path, "it was replaced during the build")
        return url


def data_url(path: Path, longest_side: int) -> str:
    """See `LocatedImage.data_url`. Runs in a thread; Pillow holds no lock while it decodes, resizes and encodes."""
    data = plain_jpeg(path, longest_side)
    if data is None:
        image = open_rgb(path, longest_side=longest_side)
        if max(image.size) > longest_side:
            # Hamming averages over the whole area of each new pixel (no moiré) and stays sharp, at 0.6 of bicubic's time.
            image.thumbnail((longest_side, longest_side), Image.Resampling.HAMMING)
        # Comments would be written again.
        image.info.clear()
        data = encode_picture(image, "JPEG", quality=92)
    return chat_api.data_url(data, "jpeg")
