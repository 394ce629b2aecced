"""Rounds: named by date or revision, gone on with when interrupted, counted when complete."""

import json
from collections.abc import Callable
from datetime import date

import pytest

from flows.benchmark import rounds
from flows.benchmark.config import BenchmarkConfig
from flows.benchmark.rounds import CellRecord, RoundRecord, begun_round, name_round, new_round, read_rounds
from flows.run_folder import write_model
from shards.errors import ConfigError

Make = Callable[..., BenchmarkConfig]
MONDAY, TUESDAY = date(2030, 1, 7), date(2030, 1, 8)
CELL = CellRecord(method="a", dataset="b", protocol="c", stream="joint", seed=0, run="d", tasks=("linear",))


@pytest.fixture
def today(monkeypatch: pytest.MonkeyPatch) -> Callable[[date], None]:
    def set_today(day: date) -> None:
        plain = rounds.name_round
        monkeypatch.setattr(rounds, "name_round", lambda config, asked: plain(config, asked, day))

    return set_today


def test_once_is_always_the_same_round(benchmark: Make) -> None:
    assert name_round(benchmark(), today=MONDAY) == name_round(benchmark(), today=TUESDAY) == "once"


def test_a_round_by_date_is_that_of_the_day(benchmark: Make) -> None:
    assert name_round(benchmark(round="date"), today=TUESDAY) == "2030-01-08"


def leave(config: BenchmarkConfig, error: BaseException) -> None:
    with begun_round(config) as name:
        assert name == "2030-01-07"
        raise error


def test_an_interrupted_round_goes_on_under_its_own_date(benchmark: Make, today: Callable[[date], None]) -> None:
    config = benchmark(round="date")
    today(MONDAY)
    with pytest.raises(KeyboardInterrupt):
        leave(config, KeyboardInterrupt())
    assert name_round(config, today=TUESDAY) == "2030-01-07"
    with begun_round(config) as name:
        assert name == "2030-01-07"
    assert name_round(config, today=TUESDAY) == "2030-01-08"


def test_a_round_that_failed_does_not_hold_up_the_next_date(benchmark: Make, today: Callable[[date], None]) -> None:
    config = benchmark(round="date")
    today(MONDAY)
    with pytest.raises(ConfigError, match="cells failed"):
        leave(config, ConfigError("cells failed"))
    assert name_round(config, today=TUESDAY) == "2030-01-08"
    assert name_round(config, "2030-01-07", TUESDAY) == "2030-01-07"


def test_a_revision_names_its_round_unless_the_code_differs_from_it(
    benchmark: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = benchmark(round="revision")
    monkeypatch.setattr(rounds, "revision", lambda: "0123456789abcdef" * 2)
    assert name_round(config) == "0123456789ab"
    for unclear in ("unknown", "0123456789abcdef+changes"):
        monkeypatch.setattr(rounds, "revision", lambda unclear=unclear: unclear)
        with pytest.raises(ConfigError, match="expected a checkout without changes; or take round: date"):
            name_round(config)


@pytest.mark.parametrize(("kind", "asked"), [("once", "2030-01-01"), ("date", "../up"), ("date", ""), ("date", "once")])
def test_a_name_that_is_none_of_a_round_is_refused(benchmark: Make, kind: str, asked: str) -> None:
    with pytest.raises(ConfigError, match="expected the name of a round of tiny"):
        name_round(benchmark(round=kind), asked)


def test_a_benchmark_is_carried_out_by_one_process_at_a_time(benchmark: Make) -> None:
    config = benchmark()
    message = "tiny: found another process at work on it"
    with begun_round(config), pytest.raises(ConfigError, match=message), begun_round(config):
        pass
    with begun_round(config):
        pass


def test_rounds_are_counted_in_the_order_of_their_end(benchmark: Make) -> None:
    config = benchmark(round="revision")
    for name in ("b", "a", "c"):
        record = new_round(read_rounds(config), name, [CELL])
        write_model(config.folder / "rounds" / f"{name}.json", record)
    assert [(record.round, record.number) for record in read_rounds(config)] == [("b", 1), ("a", 2), ("c", 3)]
    assert new_round(read_rounds(config), "a", [CELL]) == RoundRecord(round="a", number=2, cells=(CELL,))


@pytest.mark.parametrize("text", ["", "{", "[]", json.dumps({"round": "a", "number": 1, "cells": [{}]})])
def test_a_garbled_round_is_named(benchmark: Make, text: str) -> None:
    config = benchmark()
    (config.folder / "rounds").mkdir(parents=True)
    (config.folder / "rounds" / "a.json").write_text(text)
    with pytest.raises(ConfigError, match=r"rounds/a\.json: found no readable round"):
        read_rounds(config)
