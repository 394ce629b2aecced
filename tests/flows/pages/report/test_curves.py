"""Curves of training, of one run and of several."""

from flows.pages.report.curves import run_curves
from tests.flows.pages.report import made
from tests.flows.pages.report.made import epoch
from tests.flows.pages.report.test_drawing import values

TITLES = (
    "loss terms, weighted",
    "queries nearest to their own key, %",
    "online score, %",
    "spread of the normalised features",
    "effective rank of the features",
    "gradient norm",
    "learning rate",
    "samples a second",
    "time that waited for data, %",
)
METRICS = {
    "accuracy/base": 0.5,
    "feature_std": 0.05,
    "effective_rank": 30.0,
    "gradient_norm": 4.0,
    "gradient_norm_max": 9.0,
}
OLD = {"probe": {"linear": 0.4}, "samples_per_second": 90.0}
NEW = {**OLD, "metrics": METRICS, "stalled": 0.1}


def test_a_log_of_an_older_version_is_drawn_as_far_as_it_goes() -> None:
    old, new = epoch(0, **OLD), epoch(1, **NEW)
    for lines, drawn in (([old], {0, 2, 6, 7}), ([old, new], set(range(len(TITLES))))):
        text = "".join(run_curves([made.run(log=lines)]).shown)
        assert {number for number, title in enumerate(TITLES) if title in text} == drawn


def test_the_curves_show_where_post_distillation_begins() -> None:
    lines = [epoch(number, **NEW) for number in range(2)]
    for epochs, marked in ((2, 0), (1, len(TITLES))):
        overrides = (f"train.epochs={epochs}", "train.milestones=[1]", "train.stages.post.epochs=1")
        shown = run_curves([made.run(log=lines, overrides=overrides)]).shown
        assert (sum(">post-distillation<" in own for own in shown), len(shown)) == (marked, len(TITLES))


def test_several_runs_are_laid_over_each_other_a_number_a_chart() -> None:
    runs = [
        made.run(number, name, log=[epoch(e, loss, metrics=METRICS, probe={}) for e in range(length)])
        for number, name, loss, length in ((0, "a", 2.0, 3), (1, "b", 1.0, 2))
    ]
    curves = run_curves(runs)
    total = curves.shown[0]
    assert "loss terms, weighted: total" in total
    assert [round(x) for x, _ in values(total, 0)] == [1, 2, 3]
    assert [round(y, 2) for _, y in values(total, 1)] == [1.0, 1.0]
    assert ["loss terms, weighted: base" in own for own in curves.more] == [True, False]
    assert "gradient norm: largest" in curves.more[1]


def test_a_run_without_epochs_has_no_curves() -> None:
    assert run_curves([made.run()]) == ([], [])
    curves = run_curves([made.run(0, "a"), made.run(1, "b", log=[epoch(0)])])
    assert all(own.count('class="trace') == 1 for own in curves.shown)
