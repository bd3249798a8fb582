#!/usr/bin/env python3
"""Runs test programs inside the outer machine: Linux in a QEMU that emulates an AMD processor with SVM in software, so
that real kvm-amd runs in it whatever this host can do. nested_kvm_test.bzl calls it; docs/testing.md tells how to use it.

The machine sees the runfiles of this test at /runfiles and the libraries that its programs need. Programs run one after
the other; their status and gtest XML come back and are joined into the XML that Bazel reads. Lines of the log say where
they come from: `test|` what a program printed, `outer|` the outer machine's console, `inner NAME|` what programs left in
files *.log of TEST_UNDECLARED_OUTPUTS_DIR (the consoles of their guests).
"""
import argparse
import contextlib
import ctypes
import json
import os
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import tarfile
import tempfile
import threading
import time
import xml.etree.ElementTree as ElementTree

MARK = b"\x02"  # begins what outer_init.sh tells us between lines of tests
# Of the machine's own time (OwnTime):
BOOT_SECONDS = 90  # to the first heartbeat
GRACE_SECONDS = 60  # from the deadline to the end: the artifacts come home
STRIP_BYTES = 2 << 20  # a program that is larger is staged without what a debugger wants
# What a test can ask for: bank 9 of processor 0 has VAL, EN, MISCV, ADDRV, DEFERRED and POISON, and a physical address.
MEMORY_ERROR = "mce 0 9 0x9c00180000000000 0x0 {} 0x8c"
STANDSTILL_QUESTIONS = ["info status", "info registers", "info lapic", "info pic"]  # QEMU's answers are an artifact
# nohz=off highres=off: the timer interrupts at every tick, so that an interrupt which QEMU loses comes again with the next
# (docs/testing.md). no_timer_check: a host that is busy holds the timer back for longer than the kernel looks whether it
# works, and that panics then.
COMMAND_LINE = ["console=ttyS0", "quiet", "panic=-1", "reboot=t", "mitigations=off", "random.trust_cpu=on",
                "nohz=off", "highres=off", "no_timer_check"]
FORWARDED = ["GTEST_FILTER", "GTEST_REPEAT", "GTEST_ALSO_RUN_DISABLED_TESTS", "ASAN_OPTIONS", "TSAN_OPTIONS",
             "UBSAN_OPTIONS"]


def make_parser():
    parser = argparse.ArgumentParser()
    parser.add_argument("--test", action="append", default=[], help="a program to run, as a path in the runfiles")
    parser.add_argument("--kernel", required=True)
    parser.add_argument("--init", required=True)
    parser.add_argument("--module", action="append", default=[], help="a kernel module file, in the order of loading")
    parser.add_argument("--setup", default="", help="a script that prepares the machine at each of its starts")
    parser.add_argument("--host-file", action="append", default=[], help="a file of this host that is there, too, under the "
                        "same name, with the libraries that it needs")
    parser.add_argument("--memory", type=int, default=1024, help="MiB")
    parser.add_argument("--cpus", type=int, default=1)
    parser.add_argument("--deadline", type=int, default=240, help="seconds of the machine's own time for all tests")
    parser.add_argument("--env", action="append", default=[], metavar="NAME=VALUE", help="for the programs")
    parser.add_argument("--starts", type=int, default=2, help="how often the machine may start, when it stands still")
    parser.add_argument("--silence", type=int, default=20, help="seconds of its own time without a heartbeat until it does")
    parser.add_argument("--append", default="", help="more of the machine's kernel command line")
    parser.add_argument("--qemu", default="", help="more arguments of QEMU")
    parser.add_argument("--plain", action="store_true", help="show what the programs print as it is, and at a failure only "
                        "what it was, a file with all logs, and --advice")
    parser.add_argument("--advice", default="", help="what to do about a failure")
    parser.add_argument("--shell", default="", help="no tests: a shell on the console, after showing this file")
    return parser


# --- what the machine is made of --------------------------------------------------------------------------------------


def is_elf(path):
    with open(path, "rb") as file:
        return file.read(4) == b"\x7fELF"


def shared_libraries(path):
    """The files outside the runfiles that the loader would map for an ELF file; [] when it is static or no program."""
    listed = subprocess.run(["ldd", path], capture_output=True, text=True, check=False)
    if listed.returncode != 0:
        return []
    libraries = []
    for line in listed.stdout.splitlines():
        words = line.split()
        if "not found" in line:
            raise SystemExit(f"outer machine: {path} needs {words[0]}, which is not there")
        candidates = [word for word in words if word.startswith("/")]
        libraries += candidates[:1]
    return libraries


class Archive:
    """A newc archive as the kernel unpacks it into the root file system. What comes twice is there once: hard links."""

    def __init__(self, out):
        self.out = out
        self.inodes = {}  # of what is in it, by the path of the source
        self.names = {""}
        self.next = 1

    def add(self, name, mode, content=b"", links=1, inode=None):
        parent = os.path.dirname(name)
        if parent not in self.names:
            self.add(parent, 0o040755)
        self.names.add(name)
        if inode is None:
            inode, self.next = self.next, self.next + 1
        encoded = name.encode() + b"\0"
        fields = [inode, mode, 0, 0, links, 0, len(content), 0, 0, 0, 0, len(encoded), 0]
        header = b"070701" + b"".join(b"%08X" % field for field in fields) + encoded
        for part in [header, content]:
            self.out.write(part)
            self.out.write(b"\0" * (-len(part) % 4))
        return inode

    def add_file(self, name, source):
        source = os.path.realpath(source)
        if source in self.inodes:
            self.add(name, 0o100755, links=2, inode=self.inodes[source])
        else:
            self.inodes[source] = self.add(name, 0o100755, read_program(source), links=2)

    def close(self):
        self.add("TRAILER!!!", 0)


def read_program(path):
    """A file as it is staged: a large program without its debug information."""
    with open(path, "rb") as file:
        content = file.read()
    if len(content) < STRIP_BYTES or not content.startswith(b"\x7fELF") or b".debug_info" not in content:
        return content
    with tempfile.NamedTemporaryFile() as stripped:
        subprocess.run(["strip", "--strip-debug", "-o", stripped.name, path], check=True)
        with open(stripped.name, "rb") as file:
            return file.read()


def stage(arguments, initramfs, runfiles):
    """Writes `initramfs`, the file system of the machine. Uncompressed: unpacking costs the emulated processor more than
    reading it."""
    with open(initramfs, "wb") as out:
        archive = Archive(out)
        for directory in ["usr/lib", "usr/lib64", "usr/bin"]:
            archive.add(directory, 0o040755)
        for link in ["lib", "lib64"]:  # as Debian has it
            archive.add(link, 0o120777, f"usr/{link}".encode())
        archive.add_file("bin/busybox", "/bin/busybox")
        archive.add_file("init", arguments.init)
        stage_host_files(archive, stage_runfiles(archive, runfiles) + arguments.host_file)

        def write(name, text):
            archive.add(f"nested/{name}", 0o100644, text.encode())

        workspace = os.path.join("/runfiles", os.environ.get("TEST_WORKSPACE", "ferrite"))
        write("directory", workspace + "\n")
        write("modules", "".join(f"{os.path.normpath(os.path.join(workspace, module))}\n" for module in arguments.module))
        write("tests", "".join(f"{name} {workspace}/{test}\n" for test, name in test_names(arguments.test).items()))
        environment = {name: os.environ[name] for name in FORWARDED if name in os.environ}
        if "TESTBRIDGE_TEST_ONLY" in os.environ:
            environment["GTEST_FILTER"] = os.environ["TESTBRIDGE_TEST_ONLY"]
        environment.update(setting.split("=", 1) for setting in arguments.env)
        write("environment", "".join(f"export {name}={shlex.quote(value)}\n" for name, value in environment.items()))
        if arguments.shell:
            archive.add_file("nested/shell", arguments.shell)
        if arguments.setup:
            archive.add_file("nested/setup", arguments.setup)
        archive.close()


def stage_runfiles(archive, runfiles):
    """The runfiles. Returns the libraries that their programs need from this system."""
    libraries = set()
    for directory, directories, names in os.walk(runfiles, followlinks=True):
        directories.sort()
        for name in sorted(names):
            path = os.path.join(directory, name)
            if name == "MANIFEST" or name.endswith(".py") or not os.path.isfile(path):
                continue
            archive.add_file(os.path.join("runfiles", os.path.relpath(path, runfiles)), path)
            # A library's own needs are among those of the programs that need it.
            if not name.endswith(".ko") and ".so" not in name and is_elf(path):
                libraries.update(os.path.normpath(library) for library in shared_libraries(path))
    return sorted(library for library in libraries if not library.startswith((runfiles, os.path.realpath(runfiles))))


def stage_host_files(archive, paths):
    """Files of this system, under their names, and the libraries that they need."""
    for path in paths:
        name = (path if path.startswith(("/usr", "/etc")) else "/usr" + path).lstrip("/")
        if name in archive.names:
            continue
        archive.add_file(name, path)
        if is_elf(path):
            stage_host_files(archive, [os.path.normpath(library) for library in shared_libraries(path)])


def runfiles_directory():
    return os.environ.get("TEST_SRCDIR") or os.path.dirname(os.getcwd())


def test_names(paths):
    """What each test is called: the last part of its path, or all of it where two would be called the same."""
    last = [os.path.basename(path) for path in paths]
    return {path: name if last.count(name) == 1 else path.replace("/", "-") for path, name in zip(paths, last)}


def qemu_command(arguments, initramfs, ports, more=(), command_line=""):
    """`ports`: what the serial ports are. "chardev:stdio" is our own input and output."""
    return ["qemu-system-x86_64", "-M", "pc", "-accel", "tcg,thread=multi", "-cpu", "EPYC,+svm",
            *shlex.split(arguments.qemu), "-smp", str(arguments.cpus), "-m", str(arguments.memory), "-nodefaults", "-no-user-config",
            "-display", "none", "-no-reboot", "-kernel", arguments.kernel, "-initrd", initramfs,
            "-append", " ".join(COMMAND_LINE + [arguments.append, command_line]),
            "-chardev", "stdio,id=stdio,signal=off", *more] + [word for port in ports for word in ["-serial", port]]


# --- the run ----------------------------------------------------------------------------------------------------------


def die_with_parent():
    ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG: no QEMU is left behind, however we end


class OwnTime:
    """A clock of seconds in which a process ran, slept or was stopped: time in which its threads waited for a processor of
    the host does not count. A machine on a host that is overloaded is slow by this clock no more than on a quiet one."""

    def __init__(self, process):
        self.tasks = f"/proc/{process}/task"
        self.started = time.monotonic()
        self.waited = 0.0
        self.delays = {}

    def read(self):
        delays = {}
        try:
            for task in os.listdir(self.tasks):
                with open(f"{self.tasks}/{task}/schedstat", encoding="ascii") as file:
                    delays[task] = int(file.read().split()[1]) / 1e9
        except (OSError, IndexError):
            pass  # it is ending
        self.waited += max((delay - self.delays.get(task, 0) for task, delay in delays.items()), default=0)
        self.delays = delays
        return time.monotonic() - self.started - self.waited


class Run:
    """What came back, from all starts of the machine: the status of each test that ended, and which one was running when
    the machine ended."""

    def __init__(self):
        self.monitor = None
        self.status = {}
        self.seconds = {}
        self.left = []
        self.starts = 0
        self.own_seconds = 0.0  # that the tests took which ended

    def begin_start(self):
        self.starts += 1
        self.began = self.running = None
        self.finished = self.deadline_passed = self.stood_still = False

    def show(self, line):
        log("test", line)

    def hear(self, line, now):
        word, _, rest = line.partition(" ")
        if word == "begin":
            self.running, self.began = rest, now
            log("nested", f"{rest} begins")
        elif word == "end":
            name, _, status = rest.rpartition(" ")
            self.status[name] = int(status)
            self.seconds[name] = now - self.began
            self.running = None
            log("nested", f"{name} ended with status {status} after {self.seconds[name]:.1f} s")
        elif word == "left":
            name, _, process = rest.partition(" ")
            self.left.append(name)
            log("nested", f"{name} left a process behind, which was killed: {process}")
        elif word == "process":
            log("nested", f"at the deadline there is process {rest}")
        elif word == "finished":
            self.finished = True
        elif word == "mce":
            answer = self.monitor.execute("human-monitor-command", **{"command-line": MEMORY_ERROR.format(rest)})
            log("nested", f"a memory error in the page at {rest} {answer}")


plain = False


def log(source, text):
    if not plain:
        print(f"{source}| {text}", flush=True)
    elif source == "test":
        print(text, flush=True)


def show_file(source, path, limit=200_000):
    """The end of a log, with its source before each line."""
    with open(path, "rb") as file:
        file.seek(0, os.SEEK_END)
        file.seek(max(0, file.tell() - limit))
        for line in file.read().decode("utf-8", "replace").replace("\r", "").split("\n"):
            if line and "warning: TCG doesn't support requested feature" not in line:
                log(source, line)


def listen(stream, run):
    """Lines of ttyS1 until the machine ends."""
    for raw in stream:
        text, *told = raw.rstrip(b"\r\n").split(MARK)
        if text or not told:
            run.show(text.decode("utf-8", "replace"))
        for message in told:
            run.hear(message.decode("utf-8", "replace"), time.monotonic())


class Monitor:
    """QEMU's monitor, to ask it what its processor does."""

    def __init__(self):
        self.ours, self.theirs = socket.socketpair()
        self.arguments = ["-chardev", f"socket,id=monitor,fd={self.theirs.fileno()}",
                          "-mon", "chardev=monitor,mode=control"]
        self.answers = self.ours.makefile("rb")
        self.ours.settimeout(5)
        self.ready = False

    def execute(self, command, **arguments):
        """What it returns; "" when it does not answer."""
        try:
            if not self.ready:
                self.ready = True
                self.execute("qmp_capabilities")
            self.ours.sendall(json.dumps({"execute": command, "arguments": arguments}).encode())
            for line in self.answers:
                answer = json.loads(line)
                if "return" in answer or "error" in answer:
                    return answer.get("return", "")
        except (OSError, ValueError):
            pass
        return ""

    def ask(self, question):
        answer = self.execute("human-monitor-command", **{"command-line": question})
        return answer.replace("\r", "") or f"no answer to {question}\n"

    def close(self):
        self.answers.close()
        self.ours.close()
        self.theirs.close()


def processor_seconds(process):
    try:
        with open(f"/proc/{process}/stat", encoding="ascii") as file:
            fields = file.read().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
    except (OSError, IndexError):
        return 0.0


def watch(machine, run, heartbeat, deadline, silence):
    """Returns when the machine has ended, stands still, or has used up its time; in `run` it says which."""
    clock = OwnTime(machine.pid)
    beats, beat_at, used_at_beat, tests_at = 0, 0.0, 0.0, None
    ended = len(run.status)
    while True:
        try:
            machine.wait(timeout=0.5)
            return
        except subprocess.TimeoutExpired:
            now = clock.read()
        heard = os.path.getsize(heartbeat)
        if heard != beats:
            beats, beat_at, used_at_beat = heard, now, processor_seconds(machine.pid)
        if tests_at is None and run.began is not None:
            tests_at = now - run.own_seconds
        if len(run.status) != ended:
            ended, run.own_seconds = len(run.status), now - tests_at
        if now - beat_at > (silence if beats else BOOT_SECONDS):
            run.stood_still = True
            log("nested", f"the outer machine stands still: no heartbeat for {now - beat_at:.0f} s, of which QEMU ran "
                f"{processor_seconds(machine.pid) - used_at_beat:.1f} s; running: {run.running or 'no test'}")
            return
        if tests_at is not None and now - tests_at > deadline:
            run.deadline_passed = True
            log("nested", f"the deadline of {deadline} s has passed; running: {run.running or 'no test'}")
            return


def run_machine(arguments, run, work, artifacts):
    """One start of the machine, until all tests ended, it stands still or the time is up."""
    run.begin_start()

    def file(name):
        return os.path.join(work, f"{name}.{run.starts}")

    ports = [f"file:{file('console')}", "chardev:stdio", f"file:{file('results')}", f"file:{file('heartbeat')}"]
    monitor = run.monitor = Monitor()
    command = qemu_command(arguments, os.path.join(work, "initramfs"), ports, monitor.arguments,
                           f"{arguments.append} OUTER_START={run.starts} OUTER_DONE={len(run.status)}")
    for name in ["console", "results", "heartbeat"]:
        open(file(name), "wb").close()
    with open(file("qemu"), "wb") as errors:
        machine = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors,
                                   pass_fds=[monitor.theirs.fileno()], preexec_fn=die_with_parent)
    listener = threading.Thread(target=listen, args=(machine.stdout, run))
    listener.start()
    try:
        watch(machine, run, file("heartbeat"), arguments.deadline, arguments.silence)
        if run.stood_still:
            with open(os.path.join(artifacts, f"standstill.{run.starts}.txt"), "w", encoding="utf-8") as out:
                out.writelines(monitor.ask(question) for question in STANDSTILL_QUESTIONS)
        elif run.deadline_passed:
            machine.stdin.write(b"deadline\n")
            machine.stdin.flush()
            machine.wait(timeout=GRACE_SECONDS)
    except (subprocess.TimeoutExpired, BrokenPipeError):
        log("nested", "the outer machine does not answer; killed")
    finally:
        machine.kill()
        machine.wait()
        listener.join()
        monitor.close()
    unpack_artifacts(file("results"), artifacts, run)
    shutil.copy(file("console"), os.path.join(artifacts, f"outer_console.{run.starts}.log"))


# --- the results ------------------------------------------------------------------------------------------------------


def unpack_artifacts(archives, directory, run):
    """One archive for each test, one after the other."""
    try:
        with tarfile.open(archives, "r:", ignore_zeros=True) as tar:
            for member in tar:
                if member.isfile() or member.isdir():
                    tar.extract(member, directory)
    except (tarfile.TarError, EOFError, OSError) as error:
        if run.finished:
            log("nested", f"the artifacts are not complete: {error}")


def own_case(suite_name, case_name, failure):
    """A suite of one case, for what has no XML of its own."""
    suite = ElementTree.Element("testsuite", name=suite_name, tests="1", failures="1" if failure else "0")
    case = ElementTree.SubElement(suite, "testcase", name=case_name, classname=suite_name, status="run")
    if failure:
        ElementTree.SubElement(case, "failure", message=failure).text = failure
    return suite


def suites_of(name, run, artifacts):
    """The suites of one test, with a failed case more where its XML does not tell of its failure."""
    status = run.status.get(name)
    failure = None
    if status is None:
        reason = "the outer machine ended"
        if run.deadline_passed:
            reason = "the deadline passed"
        elif run.stood_still:
            reason = f"the outer machine stood still (start {run.starts} of {run.starts})"
        failure = f"{reason} while it ran" if run.running == name else f"{reason} before it ran"
    elif status != 0:
        failure = f"exit status {status}"
    elif name in run.left:
        failure = "it left processes behind"
    suites, has_xml = [], False
    try:
        suites = list(ElementTree.parse(os.path.join(artifacts, name, "test.xml")).getroot().iter("testsuite"))
        has_xml = True  # with no case in it when a filter left none
    except (OSError, ElementTree.ParseError):
        pass
    failed_cases = any(case.find("failure") is not None for suite in suites for case in suite.iter("testcase"))
    if not has_xml or (failure and not failed_cases):
        suites.append(own_case(name, "program", failure))
    return suites, failure


def write_xml(arguments, run, artifacts):
    """What Bazel reads. The attribute `flaky` is for tools/test_counts.py. Returns {test: why it failed}."""
    joined, failures = ElementTree.Element("testsuites"), {}
    for name in test_names(arguments.test).values():
        suites, failure = suites_of(name, run, artifacts)
        joined.extend(suites)
        if failure:
            failures[name] = failure
    if run.starts > 1:
        joined.set("flaky", f"the outer machine stood still; start {run.starts}")
    if os.environ.get("XML_OUTPUT_FILE"):
        ElementTree.ElementTree(joined).write(os.environ["XML_OUTPUT_FILE"], encoding="utf-8", xml_declaration=True)
    return failures


def skip_tests(arguments):
    """For a kernel that the set-up could not fetch: each test is skipped, by name."""
    with open(os.path.join(os.path.dirname(arguments.kernel), "version"), encoding="utf-8") as file:
        reason = file.read().strip()
    joined = ElementTree.Element("testsuites")
    for name in test_names(arguments.test).values():
        log("nested", f"SKIPPED: {name}: {reason}")
        suite = own_case(name, "program", None)
        ElementTree.SubElement(suite[0], "skipped", message=reason)
        joined.append(suite)
    if os.environ.get("XML_OUTPUT_FILE"):
        ElementTree.ElementTree(joined).write(os.environ["XML_OUTPUT_FILE"], encoding="utf-8", xml_declaration=True)
    return 0


def show_logs(work, artifacts, starts):
    show_file("qemu", os.path.join(work, f"qemu.{starts}"))
    show_file("outer", os.path.join(work, f"console.{starts}"))
    for directory, _, names in sorted(os.walk(artifacts)):
        for name in sorted(names):
            if name.endswith(".log") and not name.startswith("outer_console."):
                path = os.path.join(directory, name)
                show_file("inner " + os.path.relpath(path, artifacts), path)


def tell_person(arguments, failures, work, artifacts, starts):
    """What failed, unless the program has said it; a file with the rest; and what to do."""
    global plain
    plain = False
    kept = tempfile.mkdtemp(prefix="ferrite-")
    with open(os.path.join(kept, "log"), "w", encoding="utf-8") as file, contextlib.redirect_stdout(file):
        show_logs(work, artifacts, starts)
    shutil.copytree(artifacts, os.path.join(kept, "artifacts"))
    for name, failure in failures.items() or [("the outer machine", "it ended before its time")]:
        if not failure.startswith("exit status"):
            print(f"{name} failed: {failure}")
    print(f"The logs of the outer machine and of what ran in it are in {kept}/log")
    if arguments.advice:
        print(arguments.advice)


def run_tests(arguments, work):
    artifacts = os.environ.get("TEST_UNDECLARED_OUTPUTS_DIR") or os.path.join(work, "artifacts")
    os.makedirs(artifacts, exist_ok=True)
    run = Run()
    while True:
        run_machine(arguments, run, work, artifacts)
        if not run.stood_still or run.starts >= arguments.starts:
            break
        log("nested", "FLAKY: the outer machine starts again from scratch, for the tests that have not ended")
        if plain:
            print("\nThe outer machine stood still; it starts again from scratch.", flush=True)
    failures = write_xml(arguments, run, artifacts)
    if run.finished and not failures:
        return 0
    for name, failure in failures.items():
        log("nested", f"FAILED: {name}: {failure}")
    if plain:
        tell_person(arguments, failures, work, artifacts, run.starts)
    else:
        show_logs(work, artifacts, run.starts)
    return 1


def main():
    global plain
    arguments = make_parser().parse_args()
    plain = arguments.plain
    if os.path.getsize(arguments.kernel) == 0:
        return skip_tests(arguments)
    with tempfile.TemporaryDirectory(prefix="outer-", dir=os.environ.get("TEST_TMPDIR")) as work:
        initramfs = os.path.join(work, "initramfs")
        stage(arguments, initramfs, runfiles_directory())
        if arguments.shell:
            with open(os.path.join(work, "qemu"), "wb") as errors:
                ports = ["chardev:stdio", "null", "null", "null"]
                command = qemu_command(arguments, initramfs, ports, command_line=arguments.append)
                return subprocess.call(command, stderr=errors)
        return run_tests(arguments, work)


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit(130)
