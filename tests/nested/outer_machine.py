#!/usr/bin/env python3
"""Runs test programs inside the outer machine: Linux in a QEMU that emulates an AMD processor with SVM in software, so
that real kvm-amd runs in it whatever this host can do. nested_kvm_test.bzl calls it; docs/testing.md tells how to use it.

The machine sees the runfiles of this test at /runfiles and the libraries that its programs need. Programs run one after
the other; their status and gtest XML come back and are joined into the XML that Bazel reads. Lines of the log say where
they come from: `test|` what a program printed, `outer|` the outer machine's console, `inner NAME|` what programs left in
files *.log of TEST_UNDECLARED_OUTPUTS_DIR (the consoles of their guests).
"""
import argparse
import ctypes
import os
import shutil
import signal
import subprocess
import sys
import tarfile
import tempfile
import threading
import time
import xml.etree.ElementTree as ElementTree

MARK = b"\x02"  # begins what outer_init.sh tells us between lines of tests
BOOT_SECONDS = 120  # from the start to the first test: the deadline counts from there
GRACE_SECONDS = 60  # from the deadline to the end: the artifacts come home
FORWARDED = ["GTEST_FILTER", "GTEST_REPEAT", "GTEST_ALSO_RUN_DISABLED_TESTS", "ASAN_OPTIONS", "TSAN_OPTIONS",
             "UBSAN_OPTIONS"]


def parse_arguments():
    parser = argparse.ArgumentParser()
    parser.add_argument("--test", action="append", default=[], help="a program to run, as a path in the runfiles")
    parser.add_argument("--kernel", required=True)
    parser.add_argument("--init", required=True)
    parser.add_argument("--module", action="append", default=[], help="a kernel module file, in the order of loading")
    parser.add_argument("--env", action="append", default=[], metavar="NAME=VALUE", help="for the programs")
    parser.add_argument("--memory", type=int, default=1024, help="MiB")
    parser.add_argument("--cpus", type=int, default=1)
    parser.add_argument("--deadline", type=int, default=240, help="seconds for all tests")
    parser.add_argument("--plain", action="store_true", help="show what the programs print as it is, and nothing else")
    parser.add_argument("--shell", default="", help="no tests: a shell on the console, after showing this file")
    return parser.parse_args()


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


def stage(arguments, root, runfiles):
    """Fills `root`, the file system of the machine."""
    for directory in ["bin", "nested", "usr/lib", "usr/lib64", "usr/bin"]:
        os.makedirs(os.path.join(root, directory))
    for link in ["lib", "lib64"]:  # as Debian has it
        os.symlink(f"usr/{link}", os.path.join(root, link))
    shutil.copy("/bin/busybox", os.path.join(root, "bin/busybox"))
    shutil.copy(arguments.init, os.path.join(root, "init"))
    os.chmod(os.path.join(root, "init"), 0o755)
    inside = os.path.join(root, "runfiles")
    shutil.copytree(runfiles, inside, symlinks=False, ignore=shutil.ignore_patterns("MANIFEST", "*.py"))
    copied = set()
    for directory, _, names in os.walk(inside):
        for name in names:
            path = os.path.join(directory, name)
            os.chmod(path, 0o755)
            if name.endswith(".ko") or not is_elf(path):
                continue
            # ldd has to see the file where its relative RUNPATH holds.
            for library in shared_libraries(os.path.join(runfiles, os.path.relpath(path, inside))):
                library = os.path.normpath(library)
                if library in copied or library.startswith(os.path.realpath(runfiles)):
                    continue
                copied.add(library)
                target = root + (library if library.startswith("/usr") else "/usr" + library)
                if library.startswith(runfiles):
                    continue
                os.makedirs(os.path.dirname(target), exist_ok=True)
                shutil.copy(library, target)

    def write(name, text):
        with open(os.path.join(root, "nested", name), "w", encoding="utf-8") as file:
            file.write(text)

    workspace = os.path.join("/runfiles", os.environ.get("TEST_WORKSPACE", "ferrite"))
    write("directory", workspace + "\n")
    write("modules", "".join(f"{os.path.normpath(os.path.join(workspace, module))}\n" for module in arguments.module))
    write("tests", "".join(f"{test_name(test)} {workspace}/{test}\n" for test in arguments.test))
    environment = {name: os.environ[name] for name in FORWARDED if name in os.environ}
    environment.update(setting.split("=", 1) for setting in arguments.env)
    if "TESTBRIDGE_TEST_ONLY" in os.environ:
        environment["GTEST_FILTER"] = os.environ["TESTBRIDGE_TEST_ONLY"]
    write("environment", "".join(f"export {name}='{value}'\n" for name, value in environment.items()))
    if arguments.shell:
        shutil.copy(arguments.shell, os.path.join(root, "nested/shell"))


def test_name(path):
    return os.path.basename(path)


def pack(root, initramfs):
    """The file system as an uncompressed cpio: unpacking costs the emulated processor more than reading it."""
    with open(initramfs, "wb") as out:
        find = subprocess.Popen(["find", ".", "-print0"], cwd=root, stdout=subprocess.PIPE)
        subprocess.run(["cpio", "--null", "-o", "-H", "newc", "--quiet", "-R", "0:0"], cwd=root, stdin=find.stdout,
                       stdout=out, check=True)
        if find.wait() != 0:
            raise SystemExit("outer machine: cannot list the staged files")


def qemu_command(arguments, initramfs, console, tests, results):
    """`console`, `tests` and `results`: the three serial ports. "chardev:stdio" is our own input and output."""
    return ["qemu-system-x86_64", "-M", "pc", "-accel", "tcg,thread=multi", "-cpu", "EPYC,+svm",
            "-smp", str(arguments.cpus), "-m", str(arguments.memory), "-nodefaults", "-no-user-config",
            "-display", "none", "-no-reboot", "-kernel", arguments.kernel, "-initrd", initramfs,
            "-append", "console=ttyS0 quiet panic=-1 reboot=t mitigations=off random.trust_cpu=on",
            "-chardev", "stdio,id=stdio,signal=off",
            "-serial", console, "-serial", tests, "-serial", results]


# --- the run ----------------------------------------------------------------------------------------------------------


def die_with_parent():
    ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG: no QEMU is left behind, however we end


class Run:
    """What came back: the status of each test, in order, and which one was running when the machine ended."""

    def __init__(self):
        self.booted = threading.Event()  # the first test began, or the machine ended
        self.status = {}
        self.seconds = {}
        self.running = None
        self.left = []
        self.finished = False
        self.deadline_passed = False

    def hear(self, line, now):
        word, _, rest = line.partition(" ")
        if word == "begin":
            self.running, self.began = rest, now
            self.booted.set()
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


def listen(stream, run, started):
    """Lines of ttyS1 until the machine ends."""
    for raw in stream:
        text, *told = raw.rstrip(b"\r\n").split(MARK)
        if text or not told:
            log("test", text.decode("utf-8", "replace"))
        for message in told:
            run.hear(message.decode("utf-8", "replace"), time.monotonic() - started)
    run.booted.set()


def run_machine(command, deadline, errors):
    run, started = Run(), time.monotonic()
    machine = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors,
                               preexec_fn=die_with_parent)
    listener = threading.Thread(target=listen, args=(machine.stdout, run, started))
    listener.start()
    try:
        if not run.booted.wait(BOOT_SECONDS):
            log("nested", f"the outer machine has not booted in {BOOT_SECONDS} s")
        machine.wait(timeout=deadline if run.booted.is_set() else 0)
    except subprocess.TimeoutExpired:
        run.deadline_passed = True
        if run.booted.is_set():
            log("nested", f"the deadline of {deadline} s has passed; running: {run.running or 'no test'}")
        try:
            machine.stdin.write(b"deadline\n")
            machine.stdin.flush()
            machine.wait(timeout=GRACE_SECONDS)
        except (subprocess.TimeoutExpired, BrokenPipeError):
            log("nested", "the outer machine does not answer; killed")
    finally:
        machine.kill()
        machine.wait()
        listener.join()
    return run


# --- the results ------------------------------------------------------------------------------------------------------


def unpack_artifacts(archive, directory):
    try:
        with tarfile.open(archive, "r:") as tar:
            for member in tar:
                if member.isfile() or member.isdir():
                    tar.extract(member, directory)
    except (tarfile.TarError, EOFError, OSError) as error:
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
        reason = "the deadline passed" if run.deadline_passed else "the outer machine ended"
        failure = f"{reason} while it ran" if run.running == name else f"{reason} before it ran"
    elif status != 0:
        failure = f"exit status {status}"
    elif name in run.left:
        failure = "it left processes behind"
    suites = []
    try:
        suites = list(ElementTree.parse(os.path.join(artifacts, name, "test.xml")).getroot().iter("testsuite"))
    except (OSError, ElementTree.ParseError):
        pass
    failed_cases = any(case.find("failure") is not None for suite in suites for case in suite.iter("testcase"))
    if not suites or (failure and not failed_cases):
        suites.append(own_case(name, "program", failure))
    return suites, failure


def main():
    global plain
    arguments = parse_arguments()
    plain = arguments.plain
    runfiles = os.environ.get("TEST_SRCDIR") or os.path.dirname(os.getcwd())
    with tempfile.TemporaryDirectory(prefix="outer-", dir=os.environ.get("TEST_TMPDIR")) as work:
        root, initramfs = os.path.join(work, "root"), os.path.join(work, "initramfs")
        console, results = os.path.join(work, "console"), os.path.join(work, "results.tar")
        stage(arguments, root, runfiles)
        pack(root, initramfs)
        shutil.rmtree(root)
        if arguments.shell:
            with open(os.path.join(work, "qemu"), "wb") as errors:
                return subprocess.call(qemu_command(arguments, initramfs, "chardev:stdio", "null", "null"), stderr=errors)
        with open(os.path.join(work, "qemu"), "wb") as errors:
            run = run_machine(qemu_command(arguments, initramfs, f"file:{console}", "chardev:stdio", f"file:{results}"),
                              arguments.deadline, errors)
        artifacts = os.environ.get("TEST_UNDECLARED_OUTPUTS_DIR") or os.path.join(work, "artifacts")
        unpack_artifacts(results, artifacts)
        shutil.copy(console, os.path.join(artifacts, "outer_console.log"))

        joined, failed = ElementTree.Element("testsuites"), not run.finished
        for test in arguments.test:
            suites, failure = suites_of(test_name(test), run, artifacts)
            joined.extend(suites)
            if failure:
                failed = True
                log("nested", f"FAILED: {test_name(test)}: {failure}")
        if os.environ.get("XML_OUTPUT_FILE"):
            ElementTree.ElementTree(joined).write(os.environ["XML_OUTPUT_FILE"], encoding="utf-8", xml_declaration=True)
        if not failed:
            return 0
        plain = False
        show_file("qemu", os.path.join(work, "qemu"))
        show_file("outer", console)
        for directory, _, names in sorted(os.walk(artifacts)):
            for name in sorted(names):
                if name.endswith(".log") and name != "outer_console.log":
                    path = os.path.join(directory, name)
                    show_file("inner " + os.path.relpath(path, artifacts), path)
        return 1


if __name__ == "__main__":
    sys.exit(main())
