"""What stands on a terminal of 80 columns while a run goes on."""

import io
import re

from glmc.metrics import MAIN
from glmc.screen import Screen, Terminal


def test_the_bar_and_the_time_left_are_never_pushed_out():
    screen, text = Screen(), io.StringIO()
    screen.console = Terminal(file=text, force_terminal=True, width=80, color_system=None)
    words = ["epoch 200/200", "loss 12.345", "top-1 100.00 (epoch 199)", *(f"term{n} 0.123" for n in range(9))]
    with screen.bar("training", 31400) as bar:
        bar.to(31399, what=words)
    shown = re.split(r"[\r\n]+|\x1b\[[0-9;?]*[a-zA-Z]", text.getvalue())
    (line,) = {line for line in shown if "31399/31400" in line}
    assert line.startswith("epoch 200/200  loss 12.345 ━")
    assert re.search(r"31399/31400 [-\d:]+ *$", line)
    assert len(line) <= 80


def test_no_figure_of_a_table_is_cut():
    screen, text = Screen(), io.StringIO()
    screen.console = Terminal(file=text, width=80)
    figures = {key: value for key in MAIN for key, value in ((key, 100.0), (f"{key}_sd", 22.41))}
    screen.table(
        "Cross-validation", {"mean of the 5 folds": figures, "95 % interval": dict.fromkeys(MAIN, "90.1–100.0")}
    )
    table = text.getvalue()
    assert "…" not in table
    for figure in ("100.00", "±22.41", "90.1–100.0"):
        assert table.count(f" {figure} ") == 5
    assert max(map(len, table.splitlines())) <= 80
