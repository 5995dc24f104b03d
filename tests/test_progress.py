import io
import re

import pytest
from planted import planted
from rich.console import Console

from isogram import federation
from isogram.config import Config, ModelConfig, TrainConfig
from isogram.progress import Watch

CONFIG = Config(
    data="machines", anchors=40, model=ModelConfig(width=48, layers=1), train=TrainConfig(rounds=3, steps=1)
)


def watched(**options):
    out = io.StringIO()
    with Watch(Console(file=out, **options)) as watch:
        watch.say("one-shot alignment")
        fed = federation.start_training(federation.align(planted(), CONFIG))
        watch.begin(fed)
        while fed.round < 3:
            fed = federation.train_round(fed, watch.tick)
        watch.say("evaluating")
    return out.getvalue(), fed


def test_where_the_output_is_no_terminal_there_is_a_line_a_round():
    text, fed = watched(width=60)
    lines = text.splitlines()
    assert lines[0] == "one-shot alignment" and lines[-1] == "evaluating" and len(lines) == 5
    for number, line in enumerate(lines[1:-1], 1):
        assert line.startswith(f"round {number} of 3: ") and "frame " in line
        assert ("about" in line and "left" in line) is (number < 3)
    sent = sum(fed.ledger.sent(node.name) for node in fed.nodes)
    assert f"{sent / 1000:,.0f} kB sent" in lines[3]
    assert "\x1b" not in text


def test_a_terminal_shows_a_table_of_nodes_losses_and_bytes():
    text, fed = watched(force_terminal=True, width=120, height=40)
    last = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", text).rpartition("evaluating")[2]
    for node in fed.nodes:
        row = next(line for line in last.splitlines() if line.split()[:1] == [node.name])
        assert row.split()[1] == "done"
        assert row.split()[-1] == f"{fed.ledger.sent(node.name) / 1000:,.1f}"
    assert {"node", "state", "task", "frame", "teacher"} <= set(last.split())


@pytest.mark.parametrize("terminal", [True, False])
def test_a_quiet_console_shows_nothing(terminal):
    assert watched(quiet=True, force_terminal=terminal)[0] == ""
