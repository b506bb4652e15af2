"""Running ahead changes neither order nor content nor errors, and leaves no thread behind."""

import itertools
import threading
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bcaf_stream.ahead import ahead


@given(st.lists(st.integers()), st.integers(1, 5), st.integers(1, 5))
def test_the_same_items_in_the_same_order(items: list[int], depth: int, most: int):
    lists = list(ahead(iter(items), depth, most))
    assert list(itertools.chain.from_iterable(lists)) == items
    assert all(1 <= len(part) <= most for part in lists)


def test_an_error_comes_after_the_items_before_it():
    def broken() -> Iterator[int]:
        yield 1
        yield 2
        raise ValueError("broken")

    parts = ahead(broken(), depth=1, most=1)
    assert [next(parts), next(parts)] == [[1], [2]]
    with pytest.raises(ValueError, match="broken"):
        next(parts)


def test_leaving_early_ends_the_thread():
    endless = ahead(itertools.count(), depth=2, most=1)
    assert next(endless) == [0]
    endless.close()  # type: ignore[attr-defined]
    assert not [thread for thread in threading.enumerate() if thread.name == "ahead"]
