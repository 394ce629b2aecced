"""Scores as sections of the report: by group of samples, and by choice of options."""

from flows.pages.report.score_sections import sections
from tests.flows.records import result


def test_a_task_is_a_section_with_its_subjects_side_by_side() -> None:
    rows = [
        result("retrieval"),
        result("retrieval", subject="coordinates", scores={"accuracy": 0.5}),
        result("transfer", setting={"seed": 0}),
    ]
    found = sections(rows)
    assert [(section.task, section.options, section.subjects) for section in found] == [
        ("retrieval", "official gru", ["trained", "coordinates"]),
        ("transfer", "official gru", ["trained"]),
    ]
    assert found[0].lines[0].scores == {"trained": "90.0 %", "coordinates": "50.0 %"}


def test_groups_of_samples_are_told_with_their_sizes() -> None:
    details = {"by_camera": {"1": {"accuracy": 0.25, "samples": 4}, "3": {"accuracy": 1.0, "samples": 2}}}
    (section,) = sections(
        [result("retrieval", details=details), result("retrieval", subject="random encoder", details=details)]
    )
    (table,) = section.tables
    assert (table.title, table.header) == ("by camera, %", ("camera", "trained", "random encoder", "samples"))
    assert table.rows == (("1", "25.0", "25.0", "4"), ("3", "100.0", "100.0", "2"))


def test_choices_of_options_are_sections_of_their_own() -> None:
    other = [result("retrieval", options={"metric": "cosine"})]
    found = sections([result("retrieval"), *other])
    assert [section.task for section in found] == ["retrieval", "retrieval"]
    assert found[0].options == "official gru" != found[1].options
