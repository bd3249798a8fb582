#!/usr/bin/env python3
"""Boots guests of two vCPUs in several outer machines at once, each of them the load of the others, and tells of each
boot how long it took and of each machine that stood still what it looked like and what set it going again.

This is how the cure of the fault in QEMU 7.2's emulation of AMD-V that docs/testing.md describes was measured.
`./dev nested-boots --help` lists the options.
"""
import re
import struct
import subprocess
import sys
import tempfile
import threading
import time

import outer_machine

SILENCE_SECONDS = 10  # of a machine's own time
ANSWER_SECONDS = 10  # in which a machine that was given an interrupt has to go on
KICKS = ["byte", "NMI"]  # in turns: to a serial port, whose interrupt goes through the local APIC, or past it


# helper_vmrun of QEMU 7.2, without a lock: orl $CPU_INTERRUPT_VIRQ, cs->interrupt_request; testb $0x20, 0xb2(%rbx)
VMRUN_OR = re.compile(rb"\x81\x8b(....)\x00\x01\x00\x00\xf6\x83\xb2\x00\x00\x00\x20", re.DOTALL)


def widen_race(process, loops):
    """Puts some time between the read and the write of that instruction of a running QEMU: `loops` of two instructions.
    What another thread writes to the word in between is lost, as it is on a host where the two race."""
    with open(f"/proc/{process}/maps", encoding="ascii") as maps:
        text = next(line for line in maps if "r-xp" in line and "qemu-system" in line)
    begin, end = (int(address, 16) for address in text.split()[0].split("-"))
    with open(f"/proc/{process}/mem", "r+b", buffering=0) as memory:
        memory.seek(begin)
        code = memory.read(end - begin)
        found = list(VMRUN_OR.finditer(code))
        if len(found) != 1 or any(code[-64:]):
            raise SystemExit("boots: this is not the QEMU whose race --widen-race knows")
        word = found[0].group(1)
        slow = (b"\x50\x51"  # push %rax; push %rcx
                b"\x8b\x83" + word +  # mov word(%rbx), %eax
                b"\xb9" + struct.pack("<I", loops) +  # mov $loops, %ecx
                b"\xff\xc9\x75\xfc"  # 1: dec %ecx; jnz 1b
                b"\x0d\x00\x01\x00\x00"  # or $0x100, %eax
                b"\x89\x83" + word +  # mov %eax, word(%rbx)
                b"\x59\x58\xc3")  # pop %rcx; pop %rax; ret
        memory.seek(end - 64)  # what the last page of the code has no use for
        memory.write(slow)
        site = begin + found[0].start()
        memory.seek(site)
        memory.write(b"\xe8" + struct.pack("<i", end - 64 - (site + 5)) + b"\x90" * 5)  # call; 5 times nop


class Results:
    def __init__(self, wanted):
        self.lock = threading.Lock()
        self.wanted = wanted
        self.seconds = []
        self.standstills = self.boots_with_one = 0
        self.broken = []
        self.done = threading.Event()

    def say(self, machine, text):
        with self.lock:
            print(f"machine {machine}: {text}", flush=True)

    def add_boot(self, seconds, stood_still):
        with self.lock:
            self.seconds.append(seconds)
            self.boots_with_one += stood_still
            if len(self.seconds) >= self.wanted:
                self.done.set()


class Machine:
    """One outer machine, from its start to the end of all."""

    def __init__(self, number, arguments, initramfs, work, results):
        self.number, self.results = number, results
        self.heartbeat = f"{work}/heartbeat.{number}"
        open(self.heartbeat, "wb").close()
        self.monitor = outer_machine.Monitor()
        ports = [f"file:{work}/console.{number}", "chardev:stdio", "null", f"file:{self.heartbeat}"]
        command = outer_machine.qemu_command(arguments, initramfs, ports, self.monitor.arguments,
                                             "OUTER_START=1 OUTER_DONE=0")
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                                        stderr=subprocess.DEVNULL, pass_fds=[self.monitor.theirs.fileno()],
                                        preexec_fn=outer_machine.die_with_parent)
        if arguments.widen_race:
            widen_race(self.process.pid, arguments.widen_race)
        self.stood_still = []  # in the boot that is under way: what was done about it
        self.listener = threading.Thread(target=outer_machine.listen, args=(self.process.stdout, self))
        self.watcher = threading.Thread(target=self.watch)
        self.listener.start()
        self.watcher.start()

    def hear(self, line, _):
        if line.startswith("end"):
            self.results.say(self.number, f"the boots ended: {line}")

    def show(self, line):
        found = re.match(r"boot (\S+) (\S+) (\S+) status 0 2$", line)
        if not found:
            self.results.broken.append(self.number)
            self.results.say(self.number, line)
            return
        began, ready, ended = map(float, found.groups())
        how = f"stood still: {', '.join(self.stood_still)}" if self.stood_still else "well"
        self.results.say(self.number, f"boot of {ready - began:.1f} s, {ended - began:.1f} s to its end, {how}")
        self.results.add_boot(ready - began, bool(self.stood_still))
        self.stood_still = []

    def beats(self):
        with open(self.heartbeat, "rb") as file:
            return file.seek(0, 2)

    def watch(self):
        clock = outer_machine.OwnTime(self.process.pid)
        beats, beat_at, used = 0, None, 0.0
        while self.process.poll() is None and not self.results.done.wait(0.5):
            now, heard = clock.read(), self.beats()
            if heard != beats:
                beats, beat_at, used = heard, now, outer_machine.processor_seconds(self.process.pid)
            elif beat_at is not None and now - beat_at > SILENCE_SECONDS:
                self.kick(now - beat_at, outer_machine.processor_seconds(self.process.pid) - used)
                beat_at = clock.read()
        self.results.done.set()  # a machine that ended before its time is the end of all

    def kick(self, silence, used):
        results = self.results
        with results.lock:
            results.standstills += 1
            kick = KICKS[results.standstills % len(KICKS)]
        results.say(self.number, f"STANDS STILL: no heartbeat for {silence:.0f} s, in which QEMU ran {used:.2f} s")
        registers, apic = self.monitor.ask("info registers"), self.monitor.ask("info lapic")
        for pattern, text in [(r"RIP=.*", registers), (r"LVTT\s.*", apic), (r"Timer.*", apic), (r"ISR\s.*", apic),
                              (r"IRR\s.*", apic), (r"APR.*", apic)]:
            found = re.search(pattern, text)
            results.say(self.number, f"  {found.group(0) if found else 'no ' + pattern}")
        beats = self.beats()
        if kick == "byte":
            self.process.stdin.write(b".")
            self.process.stdin.flush()
        else:
            self.monitor.execute("inject-nmi")
        began = time.monotonic()
        while time.monotonic() - began < ANSWER_SECONDS and self.beats() == beats:
            time.sleep(0.05)
        went_on = self.beats() != beats
        answer = f"goes on after {time.monotonic() - began:.2f} s" if went_on else "nothing"
        results.say(self.number, f"  {kick}: {answer}")
        self.stood_still.append(f"{kick} {'helped' if went_on else 'did not help'}")

    def end(self):
        self.processor_seconds = outer_machine.processor_seconds(self.process.pid)
        self.process.kill()
        self.process.wait()
        self.listener.join()
        self.watcher.join()
        self.monitor.close()


def main():
    parser = outer_machine.make_parser()
    parser.add_argument("--boots", type=int, default=20, help="how many in all")
    parser.add_argument("--machines", type=int, default=3, help="how many outer machines at once")
    parser.add_argument("--seconds", type=int, default=3600, help="when to stop in any case")
    parser.add_argument("--widen-race", type=int, default=0, metavar="LOOPS",
                        help="make the race in QEMU's VMRUN likelier: so many loops (1000: some 0.3 us) in the midst of it")
    arguments = parser.parse_args()
    results = Results(arguments.boots)
    with tempfile.TemporaryDirectory(prefix="boots-") as work:
        initramfs = f"{work}/initramfs"
        outer_machine.stage(arguments, initramfs, outer_machine.runfiles_directory())
        began = time.monotonic()
        machines = [Machine(number, arguments, initramfs, work, results) for number in range(1, arguments.machines + 1)]
        try:
            results.done.wait(arguments.seconds)
        finally:
            results.done.set()
            for machine in machines:
                machine.end()
    seconds = sorted(results.seconds)
    took = f", of {seconds[0]:.1f} to {seconds[-1]:.1f} s, median {seconds[len(seconds) // 2]:.1f} s" if seconds else ""
    used = sum(machine.processor_seconds for machine in machines) / max(1, len(seconds))
    print(f"{len(seconds)} boots in {time.monotonic() - began:.0f} s{took}; QEMU ran {used:.1f} s for each; "
          f"{results.boots_with_one} of them stood still; a heartbeat was missed {results.standstills} times in all")
    return 1 if len(seconds) < arguments.boots or results.standstills or results.broken else 0


if __name__ == "__main__":
    sys.exit(main())
