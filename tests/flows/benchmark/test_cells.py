"""The cells of a benchmark: all of the matrix, in an order that works."""

from collections.abc import Callable
from itertools import product

from flows.benchmark.cells import Cell, cells
from flows.benchmark.config import BenchmarkConfig

Make = Callable[..., BenchmarkConfig]


def test_the_cells_are_the_whole_matrix(benchmark: Make) -> None:
    config = benchmark(
        methods=["pcm3pp", "pcm3"], datasets=["ntu60/xview", "ntu60/xsub"], streams=["bone", "joint"], seeds=[2, 7]
    )
    found = [(cell.method, f"{cell.dataset}/{cell.protocol}", cell.stream, cell.seed) for cell in cells(config)]
    assert len(found) == 16
    assert set(found) == set(product(config.methods, config.datasets, config.streams, config.seeds))
    assert [seed for *_, seed in found] == [2] * 8 + [7] * 8  # a whole table of the first seed comes first


def test_bones_and_motion_come_before_the_joints_that_are_fused_with_them(benchmark: Make) -> None:
    found = cells(benchmark(streams=["joint", "motion", "bone"], seeds=[0, 1]))
    assert [(cell.seed, cell.stream) for cell in found] == [
        (seed, stream) for seed in (0, 1) for stream in ("bone", "motion", "joint")
    ]


def test_options_of_special_cells_come_after_those_of_all(benchmark: Make) -> None:
    config = benchmark(
        methods=["pcm3pp", "pcm3"],
        datasets=["ntu60/xview", "ntu60/xsub"],
        pretrain={"train.lr": 1},
        evaluate={"repeats": 2},
        special=[
            {"method": "pcm3", "pretrain": {"train.lr": 2}},
            {"dataset": "ntu60/xsub", "evaluate": {"repeats": 3}},
            {"method": "pcm3", "dataset": "ntu60/xsub", "pretrain": {"train.lr": 4}},
        ],
    )
    by_place = {(cell.method, cell.protocol): cell for cell in cells(config)}
    assert {place: cell.pretrain for place, cell in by_place.items()} == {
        ("pcm3pp", "xview"): ("train.lr=1", "train.seed=0"),
        ("pcm3pp", "xsub"): ("train.lr=1", "train.seed=0"),
        ("pcm3", "xview"): ("train.lr=1", "train.lr=2", "train.seed=0"),
        ("pcm3", "xsub"): ("train.lr=1", "train.lr=2", "train.lr=4", "train.seed=0"),
    }
    assert by_place["pcm3", "xsub"].evaluate == ("repeats=2", "repeats=3")
    assert by_place["pcm3", "xview"].evaluate == ("repeats=2",)


def test_a_runs_folder_tells_its_cell_its_round_and_its_identity() -> None:
    cell = Cell("pcm3pp+no-clip", "ntu60", "xview", "joint", 3, (), ())
    assert cell.folder_name("once", "0123456789abcdef") == "pcm3pp+no-clip-ntu60-xview-joint-s3-01234567"
    assert cell.folder_name("2030-01-31", "0" * 64) == "pcm3pp+no-clip-ntu60-xview-joint-s3-2030-01-31-00000000"
