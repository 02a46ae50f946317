"""A bar where it can be seen, the user's own function, or neither."""

import pytest
from rich.console import Console

from foreglow.compute import progress as module
from foreglow.compute.progress import bar, shown


def test_a_function_of_the_user_is_called():
    told = []
    with shown("fit", lambda *a: told.append(a)) as show:
        show(1, 2)
    assert told == [(1, 2)]


@pytest.mark.parametrize(("asked", "terminal", "seen"), [
    (None, True, True), (None, False, False), (False, True, False), (True, False, False),
])  # fmt: skip
def test_a_bar_on_a_terminal(monkeypatch, asked, terminal, seen):
    drawn = []
    monkeypatch.setattr(module, "Console", lambda **_: Console(force_terminal=terminal))
    real = bar
    monkeypatch.setattr(module, "bar", lambda w, c, v: drawn.append(v) or real(w, c, False))
    with shown("fit", asked) as show:
        show(1, 2)
    assert drawn == [seen]
