"""Ctrl-C is heard between two steps, and nothing is left behind."""

import os
import signal
import threading

import pytest

from clvq_lens.training.interrupt import deferred_interrupt


def press() -> None:
    os.kill(os.getpid(), signal.SIGINT)


def test_it_is_noted_and_does_not_interrupt():
    with deferred_interrupt() as pressed:
        assert not pressed()
        press()
        assert pressed()


def test_pressed_twice_it_interrupts_at_once():
    with deferred_interrupt() as pressed:
        press()
        assert pressed()
        with pytest.raises(KeyboardInterrupt):
            press()


def test_afterwards_it_works_as_before_also_after_an_error():
    before = signal.getsignal(signal.SIGINT)
    with deferred_interrupt():
        pass
    assert signal.getsignal(signal.SIGINT) is before
    with pytest.raises(ZeroDivisionError), deferred_interrupt():
        _ = 1 / 0
    assert signal.getsignal(signal.SIGINT) is before
    with pytest.raises(KeyboardInterrupt):
        press()


def test_outside_the_main_thread_nothing_is_changed():
    before, heard = signal.getsignal(signal.SIGINT), []

    def work() -> None:
        with deferred_interrupt() as pressed:
            heard.append((pressed(), signal.getsignal(signal.SIGINT) is before))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert heard == [(False, True)]
