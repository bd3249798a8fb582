"""kvm_cc_test: a test that needs KVM, in both of its forms (docs/testing.md)."""

load("@rules_cc//cc:defs.bzl", "cc_test")
load("//tests/emulated:groups.bzl", "GROUPS")
load("//tests/nested:nested_kvm_test.bzl", "nested_kvm_test")

# Tells a program that it runs in the outer machine (tests/fakes/test_place.h).
_PLACE = ["--env=FERRITE_TEST_PLACE=emulated"]

def kvm_cc_test(name, tags = [], **kwargs):
    """A cc_test on the host's KVM, and `name`_emulated: the same program in an outer machine of its own.

    `./dev test` runs the first where the host has a KVM. Where it has none, or with --emulated, it runs the second, or
    the group of //tests/emulated that `name` belongs to when all tests are to run; every such test has to be in one.

    Args:
      name: the test.
      tags: added to those that every KVM test has.
      **kwargs: passed on to cc_test.
    """
    label = "//%s:%s" % (native.package_name(), name)
    if len([group for group, tests in GROUPS.items() if label in tests]) != 1:
        fail("%s has to be in one of the groups in tests/emulated/groups.bzl" % label)
    cc_test(
        name = name,
        # What it finds depends on the host's kernel, so it is never cached.
        tags = ["external", "kvm"] + tags,
        visibility = ["//tests/emulated:__pkg__", "//tests/nested:__pkg__"],
        **kwargs
    )
    emulated_test(
        name = name + "_emulated",
        tests = [":" + name],
        tags = ["manual"],
        testonly = True,
    )

def emulated_test(name, tests, tags = [], **kwargs):
    """One boot of the outer machine for the programs of several kvm_cc_tests.

    Args:
      name: the test.
      tests: labels of kvm_cc_tests.
      tags: added to those of every emulated test.
      **kwargs: passed on to nested_kvm_test.
    """
    nested_kvm_test(
        name = name,
        tests = tests,
        args = _PLACE,
        memory = 4096,
        deadline = 1500,
        # One processor: the emulation of AMD-V on two is not to be relied on (docs/testing.md).
        cpus = 1,
        tags = ["emulated"] + tags,
        **kwargs
    )
