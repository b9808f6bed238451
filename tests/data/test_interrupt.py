"""Ctrl-C is heard between two steps, and nothing is left behind."""

import signal
import threading

import pytest

from clvq_lens.data.interrupt import deferred_interrupt


def test_it_is_noted_and_does_not_interrupt(ctrl_c):
    with deferred_interrupt() as pressed:
        assert not pressed()
        ctrl_c()
        assert pressed()


def test_pressed_twice_it_interrupts_at_once(ctrl_c):
    with deferred_interrupt() as pressed:
        ctrl_c()
        assert pressed()
        with pytest.raises(KeyboardInterrupt):
            ctrl_c()


def test_afterwards_it_works_as_before_also_after_an_error(ctrl_c):
    before = signal.getsignal(signal.SIGINT)
    with deferred_interrupt():
        pass
    assert signal.getsignal(signal.SIGINT) is before
    with pytest.raises(ZeroDivisionError), deferred_interrupt():
        _ = 1 / 0
    assert signal.getsignal(signal.SIGINT) is before
    with pytest.raises(KeyboardInterrupt):
        ctrl_c()


def test_outside_the_main_thread_nothing_is_changed(ctrl_c):
    before, heard = signal.getsignal(signal.SIGINT), []

    def work() -> None:
        with deferred_interrupt() as pressed:
            heard.append((pressed(), signal.getsignal(signal.SIGINT) is before))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert heard == [(False, True)]


def test_a_process_that_ignores_it_goes_on_ignoring_it(ctrl_c):
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    with deferred_interrupt() as pressed:
        ctrl_c()
        assert not pressed()
        assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
