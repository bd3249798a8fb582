"""nested_kvm_test: runs tests inside a software-emulated machine that has real kvm-amd (docs/testing.md)."""

load("@rules_cc//cc:defs.bzl", "cc_test")

# Kernels of an outer machine (third_party/debian_kernel), each with what is loaded, in this order. Debian's generic ones
# survive the loss of a page; their kvm-amd wants ccp.
_KVM = ["virt/lib/irqbypass.ko", "arch/x86/kvm/kvm.ko", "arch/x86/kvm/kvm-amd.ko"]
_GENERIC = ["drivers/crypto/ccp/ccp.ko"] + _KVM + ["mm/hwpoison-inject.ko"]
_KERNELS = {
    "@debian_kernel": _KVM,
    "@debian_kernel_generic": _GENERIC,
    "@debian_kernel_backports": _GENERIC,
}
_CLOUD = "@debian_kernel"

def nested_kvm_test(
        name,
        tests,
        data = [],
        deadline = 240,
        memory = 1024,
        cpus = 1,
        modules = [],
        kernel = _CLOUD,
        setup = None,
        host_files = [],
        args = [],
        tags = [],
        **kwargs):
    """One boot of the outer machine, in which `tests` run one after the other.

    Each is a program that ends with 0 when it passed: a gtest binary (its cases are counted one by one) or a script. It
    runs as root in the workspace's runfiles directory, as under Bazel, with /dev/kvm, /proc, /sys, a tmpfs at /tmp and
    busybox's commands. TEST_TMPDIR is empty; what it leaves in TEST_UNDECLARED_OUTPUTS_DIR comes back, files *.log are
    shown when something fails. A process that outlives it is a failure.

    Args:
      name: the test.
      tests: labels of programs; their own data comes along. Tag cc_tests that need the outer machine "manual".
      data: more runfiles for all of them.
      deadline: seconds of the machine's own time for all tests (not those in which it waits for a processor of a busy
        host); then what ran is told and the machine is killed. The boot has its own.
      memory: MiB of the outer machine.
      cpus: of the outer machine.
      modules: labels of more kernel modules to load, in order.
      kernel: the repository of the machine's own kernel. Where it could not be fetched, the tests are skipped.
      setup: a script (busybox's sh) that prepares the machine at each of its starts, behind the modules.
      host_files: paths of this host's files that are there in the machine, too, with the libraries that they need: what
        programs load while they run.
      args: more arguments of the driver (outer_machine.py).
      tags: added to the ones that every nested test has.
      **kwargs: passed on to sh_test.
    """
    outer_machine_test(
        name = name,
        srcs = ["//tests/nested:outer_machine.py"],
        tests = tests,
        data = data + ([setup] if setup else []),
        deadline = deadline,
        memory = memory,
        cpus = cpus,
        modules = modules,
        kernel = kernel,
        args = args + (["--setup=$(rootpath %s)" % setup] if setup else []) + ["--host-file=" + f for f in host_files],
        tags = tags,
        **kwargs
    )

def outer_machine_test(
        name,
        srcs,
        tests,
        data,
        deadline,
        memory,
        cpus,
        modules,
        tags,
        kernel = _CLOUD,
        args = [],
        **kwargs):
    """nested_kvm_test with a script of its own in `srcs`, which gets `args` and then the driver's arguments."""
    native.sh_test(
        name = name,
        srcs = srcs,
        args = args + _arguments(tests, modules, memory, cpus, kernel) + ["--deadline=%d" % deadline],
        data = _data(tests, data, modules, kernel),
        # Not cached; two of them at once would only make both slow.
        tags = ["cpu:%d" % cpus, "external", "nested", "no-sanitizer"] + tags,
        size = "small",
        # Ours is the deadline that counts: it tells what was running, and a busy host does not use it up.
        timeout = "eternal",
        **kwargs
    )

def outer_machine_binary(
        name,
        args = [],
        programs = [],
        data = [],
        memory = 1536,
        cpus = 2,
        modules = [],
        kernel = _CLOUD,
        srcs = ["//tests/nested:outer_machine.py"],
        **kwargs):
    """For `bazel run`: runs `programs` in the outer machine, or with --shell=TEXT in `args` gives a shell in it."""
    native.sh_binary(
        name = name,
        srcs = srcs,
        args = _arguments(programs, modules, memory, cpus, kernel) + args,
        data = _data(programs, data, modules, kernel),
        **kwargs
    )

def _modules(kernel):
    return [kernel + "//:modules/" + module for module in _KERNELS[kernel]]

def _arguments(programs, modules, memory, cpus, kernel):
    return (["--kernel=$(rootpath %s//:vmlinuz)" % kernel, "--init=$(rootpath //tests/nested:outer_init.sh)"] +
            ["--module=$(rootpath %s)" % module for module in _modules(kernel) + modules] +
            ["--test=$(rootpath %s)" % program for program in programs] +
            ["--memory=%d" % memory, "--cpus=%d" % cpus])

def _data(programs, data, modules, kernel):
    return programs + data + modules + _modules(kernel) + [
        kernel + "//:version",
        kernel + "//:vmlinuz",
        "//tests/nested:outer_init.sh",
    ]

def nested_cc_test(name, **kwargs):
    """A gtest binary for the `tests` of nested_kvm_test: built and checked with the rest, run only there."""
    cc_test(
        name = name,
        tags = ["manual", "nested"],
        **kwargs
    )
