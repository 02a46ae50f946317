"""What is made while one is used comes in order, and errors come where they belong."""

import pytest

from foreglow.compute.device import one_ahead


def test_all_come_in_order():
    assert list(one_ahead(range(5))) == [0, 1, 2, 3, 4]
    assert list(one_ahead([])) == []
    assert list(one_ahead([None, None])) == [None, None]


def test_an_error_comes_after_what_was_made_before():
    def items():
        yield 1
        raise ValueError("broken")

    coming = one_ahead(items())
    assert next(coming) == 1
    with pytest.raises(ValueError, match="broken"):
        next(coming)
