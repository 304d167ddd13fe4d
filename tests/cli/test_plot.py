from __future__ import annotations

from ofa_compile.cli.plot import scatter


def test_points_stand_where_they_belong() -> None:
    text = scatter(
        [(1.0, 10.0), (2.0, 30.0), (3.0, 20.0)],
        ["a", "b", "c"],
        x_label="ms",
        y_label="%",
        width=5,
        height=3,
    )
    assert text.splitlines() == ["   %", "30 |  b", "   |    c", "10 |a", "   +-----", "    1ms 3"]


def test_no_point_and_one_point_are_drawn() -> None:
    assert "x" not in scatter([], [], x_label="ms", y_label="%")
    assert scatter([(5.0, 5.0)], ["x"], x_label="ms", y_label="%").count("x") == 1
