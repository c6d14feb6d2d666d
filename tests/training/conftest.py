"""What the tests of training share as fixtures."""

from __future__ import annotations

import threading

import pytest

from ptool.training import checkpoints


@pytest.fixture
def slow(monkeypatch):
    """Writing waits until it is let go."""
    gate = threading.Event()
    write = checkpoints.write_share

    def waiting(*arguments):
        assert gate.wait(20)
        return write(*arguments)

    monkeypatch.setattr(checkpoints, "write_share", waiting)
    return gate
