"""Scores as sections of the report: by class, by group of samples, and by choice of options."""

from pathlib import Path

from flows.score_sections import sections
from tests.flows.records import result


def test_a_task_is_a_section_with_its_subjects_side_by_side(tmp_path: Path) -> None:
    rows = [
        result("retrieval"),
        result("retrieval", subject="coordinates", scores={"accuracy": 0.5}),
        result("transfer", setting={"seed": 0}),
    ]
    found = sections(tmp_path, rows)
    assert [(section.task, section.options, section.subjects) for section in found] == [
        ("retrieval", "published", ["trained", "coordinates"]),
        ("transfer", "published", ["trained"]),
    ]
    assert found[0].lines[0].scores == {"trained": "90.0 %", "coordinates": "50.0 %"}


def test_classes_are_the_mean_of_repetitions_and_say_where_no_sample_is(tmp_path: Path) -> None:
    rows = [
        result("finetune", setting={"seed": seed}, details={"per_class": values})
        for seed, values in enumerate(([0.5, None, 1.0], [0.7, None, None]))
    ]
    rows.append(
        result("finetune", subject="random encoder", setting={"seed": 0}, details={"per_class": [0, None, 0.25]})
    )
    (section,) = sections(tmp_path, rows)
    (table,) = section.tables
    assert table.header == ("class", "trained", "random encoder")
    assert table.rows == (("0", "60.0", "0.0"), ("1", "no sample", "no sample"), ("2", "100.0", "25.0"))


def test_the_average_precision_of_a_class_stands_beside_those_of_other_overlaps(tmp_path: Path) -> None:
    details = {"per_class": {"0.1": [0.9, None], "0.5": [0.4, None]}}
    (section,) = sections(tmp_path, [result("fusion", setting={"seed": 0}, details=details)])
    (table,) = section.tables
    assert table.header == ("class", "trained, from an overlap of 0.1", "trained, from an overlap of 0.5")
    assert table.rows == (("0", "90.0", "40.0"), ("1", "no sample", "no sample"))


def test_groups_of_samples_are_told_with_their_sizes(tmp_path: Path) -> None:
    details = {"by_camera": {"1": {"accuracy": 0.25, "samples": 4}, "3": {"accuracy": 1.0, "samples": 2}}}
    (section,) = sections(
        tmp_path, [result("retrieval", details=details), result("retrieval", subject="random encoder", details=details)]
    )
    (table,) = section.tables
    assert (table.title, table.header) == ("by camera, %", ("camera", "trained", "random encoder", "samples"))
    assert table.rows == (("1", "25.0", "25.0", "4"), ("3", "100.0", "100.0", "2"))


def test_measurements_of_several_settings_have_no_table_by_class(tmp_path: Path) -> None:
    rows = [result("few_shot", setting={"shots": shots}, details={"per_class": [0.5]}) for shots in (1, 5)]
    (section,) = sections(tmp_path, rows)
    assert section.tables == []
    assert [line.setting for line in section.lines] == ["shots 1", "shots 5"]
