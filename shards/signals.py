"""Signals that end a process which does not take them."""

import signal

KEYBOARD = (signal.SIGINT, signal.SIGQUIT)
"""Sent by a person at the keyboard; twice, when once is too slow."""

_ALWAYS = (signal.SIGINT, signal.SIGTERM)

# A closed terminal or a lost connection; Ctrl-\; and what batch systems send when the time of a job is nearly over.
_UNLESS_IGNORED = (signal.SIGHUP, signal.SIGQUIT, signal.SIGXCPU, signal.SIGUSR1, signal.SIGUSR2)


def ending_signals() -> tuple[signal.Signals, ...]:
    """Those on which a long work saves what it has; without those that this process was started to ignore, as by nohup.

    Of SIGINT that says nothing: a shell has every command in its background ignore it.
    """
    return (*_ALWAYS, *(number for number in _UNLESS_IGNORED if signal.getsignal(number) != signal.SIG_IGN))
