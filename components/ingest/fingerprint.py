"""Identity of input files: what keys TFX's execution cache, and the names that example ids are made of.

Read by the planner, so nothing heavy is imported.
"""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Iterable

from components.errors import RetrainError


def fingerprint(files: Iterable[str]) -> str:
    """32 hexadecimal characters that change with the files' names or content and with nothing else.

    Names count relative to the folder that all files share, and the order of `files` does not count. The
    content is hashed, about 1 GB a second, rather than sizes and times: a copy or a checkout keeps the
    fingerprint, and a file rewritten in place never does.

    Args:
        files: local paths.

    Raises:
        RetrainError: a file cannot be read.
    """
    whole = hashlib.blake2b(digest_size=16)
    for path, name in sorted(relative_names(files).items(), key=lambda item: item[1]):
        try:
            with open(path, "rb") as file:
                content = hashlib.file_digest(file, hashlib.blake2b).digest()  # type: ignore[arg-type]
        except OSError as error:
            raise RetrainError(
                f"{path}: cannot be read ({error.strerror}); give the path of a readable file"
            ) from None
        whole.update(len(name.encode()).to_bytes(8) + name.encode() + content)
    return whole.hexdigest()


def relative_names(paths: Iterable[str]) -> dict[str, str]:
    """Every path's name relative to the folder that all of them share.

    >>> relative_names(["/data/3/a.csv", "/data/3/more/b.csv"])
    {'/data/3/a.csv': 'a.csv', '/data/3/more/b.csv': 'more/b.csv'}
    """
    paths = list(paths)
    folders = [path.split("/")[:-1] for path in paths]
    shared = sum(
        1 for _ in itertools.takewhile(lambda names: len(set(names)) == 1, zip(*folders, strict=False))
    )
    return {path: "/".join(path.split("/")[shared:]) for path in paths}
