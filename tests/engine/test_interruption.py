# SPDX-License-Identifier: Apache-2.0
"""Signals are noted, and end a training when it is saved."""

import os
import signal

import pytest

from dalnet.engine.interruption import STATUS, Interruption

pytestmark = pytest.mark.faults("signals")

SIGNALS = [signal.SIGTERM, signal.SIGINT, signal.SIGUSR1]


@pytest.mark.parametrize("number", SIGNALS)
def test_a_signal_is_noted_and_the_second_interrupts(number):
    interruption = Interruption()
    before = signal.getsignal(number)
    with interruption.noted():
        os.kill(os.getpid(), number)
        os.kill(os.getpid(), number)  # the same one, by another way
        assert interruption.agreed() == number
        interruption._time -= 10
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), number)
    assert signal.getsignal(number) is before


@pytest.mark.parametrize("number", SIGNALS)
def test_where_everything_is_saved_a_signal_exits(number):
    interruption = Interruption()
    with interruption.noted(), pytest.raises(SystemExit) as error, interruption.immediate():
        os.kill(os.getpid(), number)
    assert error.value.code == STATUS == 75


def test_a_signal_that_came_while_everything_was_saved_exits_too():
    interruption = Interruption()
    with interruption.noted():
        os.kill(os.getpid(), signal.SIGTERM)
        with pytest.raises(SystemExit) as error, interruption.immediate():
            pytest.fail("the evaluation has begun")
    assert error.value.code == STATUS and interruption._is_over


def test_when_it_exits_further_signals_do_nothing():
    interruption = Interruption()
    with interruption.noted(), pytest.raises(SystemExit):
        try:
            interruption.exit()
        finally:
            os.kill(os.getpid(), signal.SIGTERM)
    assert interruption.number == 0


def test_processes_that_are_forked_off_end_by_sigterm_alone():
    with Interruption().noted():
        child = os.fork()
        if child == 0:
            os.kill(os.getpid(), signal.SIGINT)
            os.kill(os.getpid(), signal.SIGUSR1)
            try:
                os.kill(os.getpid(), signal.SIGTERM)
            except SystemExit as error:
                os._exit(error.code)
            os._exit(0)
        _, status = os.waitpid(child, 0)
    assert os.waitstatus_to_exitcode(status) == 128 + signal.SIGTERM
