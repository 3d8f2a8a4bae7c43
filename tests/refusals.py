"""Errors that tests expect: of this class, with this code, and with these words in their sentence."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest


@contextmanager
def refused(error: type[Exception], code: str, *words: str) -> Iterator[pytest.ExceptionInfo[Any]]:
    """The block raises such an error."""
    with pytest.raises(error) as caught:
        yield caught
    assert caught.value.code == code
    assert [text for text in words if text not in str(caught.value)] == [], str(caught.value)
