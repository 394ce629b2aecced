"""Paths as users write them."""

from pathlib import Path

from shards.errors import ConfigError


def expand_place(text: str) -> str:
    """A path with its home folder, as `expand_home` gives it; a URL as it is."""
    return text if "://" in text else str(expand_home(text))


def expand_home(path: str | Path) -> Path:
    """The path with a leading `~` or `~name` exchanged for that home folder.

    Shells do so at the beginning of a word alone: not in `--out=~/data`, and nobody does in a YAML file or a form.

    Raises:
        ConfigError: there is no such home folder; the path would mean a folder named `~`.
    """
    if isinstance(path, str) and path.startswith("./"):
        return Path.cwd() / path if path.startswith("./~") else Path(path)  # Path drops the ./ that says what is meant
    try:
        return Path(path).expanduser()
    except RuntimeError as error:
        raise ConfigError(f"{path}: found no home folder for it ({error}), expected ./ before a name with ~") from None
