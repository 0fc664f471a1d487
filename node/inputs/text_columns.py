"""A column of texts as the lines of one buffer, so that all of them are worked on in one go."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import numpy.typing as npt

from psi import kernel
from psi.values import U8, Bools, Indices


@dataclass(frozen=True, slots=True)
class Lines:
    """Texts in one buffer, in UTF-8: text i is `data[starts[i]:ends[i]]`."""

    data: bytes
    starts: Indices
    ends: Indices

    @classmethod
    def join(cls, texts: Sequence[str]) -> "Lines":
        """Put line breaks before, between and after the texts; one within a text becomes NUL."""
        text = "\n".join(["", *texts, ""])
        if text.count("\n") > len(texts) + 1:
            text = "\n".join(["", *(each.replace("\n", "\0") for each in texts), ""])
        return cls.split(text.encode("utf-8", "surrogatepass"))

    @classmethod
    def split(cls, data: bytes) -> "Lines":
        """Take apart what `join` put together, perhaps after changes within lines."""
        breaks = np.flatnonzero(np.frombuffer(data, np.uint8) == ord("\n"))
        return cls(data, breaks[:-1] + 1, breaks[1:])

    def __len__(self) -> int:
        return len(self.starts)

    @property
    def lengths(self) -> Indices:
        """The bytes of each text."""
        return self.ends - self.starts

    def texts(self, where: Indices) -> list[str]:
        """Return the texts at `where`."""
        places = zip(self.starts[where].tolist(), self.ends[where].tolist(), strict=True)
        return [self.data[start:end].decode("utf-8", "surrogatepass") for start, end in places]

    def following(self, place: int, count: int) -> list[str]:
        """Return so many texts from a place on, or those that there are, of lines as `split` finds them."""
        stop = min(place + count, len(self))
        return self._consecutive(place, stop) if place < stop else []

    def until(self, place: int, sign: str, count: int) -> list[str]:
        """Return what `following` does, but none after the next text that has a sign of ASCII."""
        found = self.data.find(sign.encode(), int(self.ends[place]))
        stop = int(np.searchsorted(self.ends, found)) + 1 if found >= 0 else len(self)
        return self._consecutive(place, min(stop, place + count, len(self)))

    def may_close(self, place: int, delimiter: str) -> bool:
        """Return whether a quote that is open at the end of a text may be closed by the next one, if that is here."""
        found = self.data.find(b'"', int(self.ends[place]))
        return found < 0 or self.data.startswith((b'"', b"\n", delimiter.encode()), found + 1)

    def _consecutive(self, start: int, stop: int) -> list[str]:
        data = self.data[int(self.starts[start]) : int(self.ends[stop - 1])]
        return data.decode("utf-8", "surrogatepass").split("\n")

    def begin(self, sign: str) -> Bools:
        """Return which of the lines begin with a sign, one of ASCII."""
        first = np.frombuffer(self.data, np.uint8)[self.starts]  # the line break, of an empty line
        return np.asarray(first == ord(sign), bool)

    def heads(self, where: Indices, count: int) -> U8:
        """Return the first `count` bytes of the texts at `where`, none of which is shorter, as uint8 (n, count)."""
        if not len(where):
            return np.zeros((0, count), np.uint8)
        return _windows(self.data, count)[self.starts[where]]

    def rows(self, most: int) -> npt.NDArray[np.bytes_]:
        """Return the texts in rows of the width of the longest, those over `most` bytes cut."""
        lengths = np.minimum(self.lengths, most)
        width = int(lengths.max(initial=1))
        found = _windows(self.data + bytes(width), width)[self.starts]
        found *= np.arange(width) < lengths[:, None]
        return found.view(f"S{width}").ravel()

    def beyond_ascii(self) -> Indices:
        """Return which of the lines have other than ASCII characters."""
        if self.data.isascii():
            return np.empty(0, np.intp)
        places = np.flatnonzero(np.frombuffer(self.data, np.uint8) >= 0x80)
        return np.unique(np.searchsorted(self.ends, places))

    def put(self, where: Indices, texts: Sequence[str]) -> "Lines":
        """Return the texts with others at `where`."""
        encoded = [text.encode("utf-8", "surrogatepass") for text in texts]
        lengths = np.fromiter(map(len, encoded), np.intp, len(encoded))
        starts, ends = self.starts.copy(), self.ends.copy()
        ends[where] = len(self.data) + np.cumsum(lengths)
        starts[where] = ends[where] - lengths
        return Lines(self.data + b"".join(encoded), starts, ends)

    def sha256(self, where: Indices) -> U8:
        """Return the hashes of the texts at `where`, uint8 (n, 32)."""
        return kernel.sha256(self.data, self.starts[where], self.ends[where])


def pack(texts: Sequence[str]) -> tuple[npt.NDArray[np.uint32], U8]:
    """Return the characters of each text, and the bytes of all; `unpack` returns the texts."""
    lengths = np.fromiter(map(len, texts), np.uint32, len(texts))
    return lengths, np.frombuffer("".join(texts).encode("utf-8", "surrogatepass"), np.uint8)


def unpack(lengths: npt.NDArray[np.uint32], data: U8) -> list[str]:
    """Return the texts that `pack` was given."""
    text, ends = data.tobytes().decode("utf-8", "surrogatepass"), np.cumsum(lengths, dtype=np.int64).tolist()
    return [text[start:end] for start, end in pairwise([0, *ends])]


def _windows(data: bytes, width: int) -> U8:
    """Return what begins at each place of a buffer that is not shorter, as uint8 (n, width), not copied."""
    found: U8 = np.lib.stride_tricks.sliding_window_view(np.frombuffer(data, np.uint8), width)
    return found
