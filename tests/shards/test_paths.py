"""`~` is a home folder wherever a path is read."""

from pathlib import Path

import pytest

from shards.errors import ConfigError
from shards.paths import expand_home
from shards.places import place


def test_a_home_folder_is_expanded_and_nothing_else(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/ada")
    for read in (expand_home, place):
        assert read("~/data") == Path("/home/ada/data")
        assert read(Path("~/data")) == Path("/home/ada/data")
        assert read("~") == Path("/home/ada")
        assert read("./~") == Path.cwd() / "~"
        for same in ("data/~", "./a", "/a/~/b", "a~", ""):
            assert read(same) == Path(same)


def test_a_home_folder_that_is_not_there_is_refused_instead_of_made() -> None:
    for read in (expand_home, place):
        with pytest.raises(ConfigError, match="~nobody-by-this-name/x: found no home folder"):
            read("~nobody-by-this-name/x")
