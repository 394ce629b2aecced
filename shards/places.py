"""Where things lie: a local path or a URL that fsspec can open (`s3://`, `gs://`, `file://` and others)."""

import re
from pathlib import Path

from upath import UPath

from shards.errors import ConfigError
from shards.paths import expand_home

Place = Path | UPath
"""A local path is always a `pathlib.Path`, so that `isinstance(place, Path)` tells whether it is local."""

_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://")


def place(text: str | Place) -> Place:
    """The place that a user named.

    Raises:
        ConfigError: no file system is installed for the URL's scheme, the URL names no place, or the path is of a home
            folder that is not there.
    """
    if not isinstance(text, UPath) and not (isinstance(text, str) and "://" in text):
        return expand_home(text)
    try:
        found = text if isinstance(text, UPath) else UPath(_checked(text))
        _ = found.fs  # fails here, and not at the first read, where the library for the scheme is absent
    except (ImportError, ValueError) as error:
        raise ConfigError(f"{text}: found no file system for this URL ({error}), expected s3, gs or file") from error
    return Path(found.path) if found.protocol in ("", "file", "local") else found


def _checked(url: str) -> str:
    """The URL with its scheme in lower case; ValueError if fsspec would understand another place than was meant."""
    found = _SCHEME.match(url)
    if not found or "::" in url:
        raise ValueError("a chain or no scheme")
    scheme, rest = found[1].lower(), url[found.end() :]
    if scheme == "file" and not rest.startswith("/"):
        raise ValueError("a host, or a path that is not absolute: three slashes")
    if not rest.strip("/"):
        raise ValueError("no bucket")
    return f"{scheme}://{rest}"
