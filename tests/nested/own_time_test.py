#!/usr/bin/env python3
"""OwnTime of outer_machine.py counts the seconds of a process that sleeps, runs or is stopped, and not those in which it
waits for a processor."""
import os
import signal
import subprocess
import time

import outer_machine

PROCESSOR = min(os.sched_getaffinity(0))
SPIN = ["python3", "-c", "while True: pass"]


def measure(process, seconds=2.0):
    """The share of that time that was the process's own."""
    clock = outer_machine.OwnTime(process.pid)
    began, own = time.monotonic(), clock.read()
    time.sleep(seconds)
    return (clock.read() - own) / (time.monotonic() - began)


def start(command):
    return subprocess.Popen(command, preexec_fn=outer_machine.die_with_parent)


def expect(right, what):
    print(what)
    if not right:
        raise SystemExit("that is wrong")


def main():
    processes = [start(["sleep", "100"])]
    share = measure(processes[0])
    expect(share > 0.9, f"asleep: {share:.2f}")
    try:
        # Four at one processor: each has a quarter of it, or less on a busy host.
        processes += [start(SPIN) for _ in range(4)]
        for process in processes[1:]:
            os.sched_setaffinity(process.pid, [PROCESSOR])
        share = measure(processes[1])
        expect(share < 0.6, f"one of four at one processor: {share:.2f}")
        processes[1].send_signal(signal.SIGSTOP)
        time.sleep(0.2)
        share = measure(processes[1])
        expect(share > 0.9, f"stopped: {share:.2f}")
    finally:
        for process in processes:
            process.kill()
            process.wait()


if __name__ == "__main__":
    main()
