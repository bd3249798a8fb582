"""rdma_nested_test: tests in an outer machine that has an RDMA device, rdma_rxe on a dummy interface (docs/testing.md)."""

load(":nested_kvm_test.bzl", "nested_kvm_test", "outer_machine_binary")

_KERNEL = "@debian_kernel_generic"  # the cloud kernel has no rxe

# In the order of loading: there is no modprobe.
_MODULES = [
    "crypto/crc32_generic.ko",
    "drivers/infiniband/core/ib_core.ko",
    "drivers/infiniband/core/ib_uverbs.ko",
    "drivers/infiniband/core/ib_cm.ko",
    "drivers/infiniband/core/iw_cm.ko",
    "fs/configfs/configfs.ko",
    "drivers/infiniband/core/rdma_cm.ko",
    "drivers/infiniband/core/rdma_ucm.ko",
    "net/ipv4/udp_tunnel.ko",
    "net/ipv6/ip6_udp_tunnel.ko",
    "drivers/infiniband/sw/rxe/rdma_rxe.ko",
    "drivers/net/dummy.ko",
]

# The libraries, which programs load when they want them, rxe's provider, and what makes the device.
_HOST_FILES = [
    "/bin/ip",
    "/etc/libibverbs.d/rxe.driver",
    "/usr/bin/rdma",
    "/usr/lib/x86_64-linux-gnu/libibverbs.so.1",
    "/usr/lib/x86_64-linux-gnu/libibverbs/librxe-rdmav34.so",
    "/usr/lib/x86_64-linux-gnu/librdmacm.so.1",
]

_ENVIRONMENT = ["--env=FERRITE_TEST_PLACE=emulated", "--env=FERRITE_TEST_RDMA=10.9.0.1"]
_SETUP = "//tests/nested:rdma_setup.sh"

def _files(repository, files):
    return [repository + "//:modules/" + file for file in files]

def rdma_outer_machine_binary(name, host_files = [], args = [], data = [], **kwargs):
    """outer_machine_binary with the device; `host_files` are there, too, with the libraries that they need."""
    outer_machine_binary(
        name = name,
        args = args + _ENVIRONMENT + ["--setup=$(rootpath %s)" % _SETUP] +
               ["--host-file=" + file for file in _HOST_FILES + host_files],
        cpus = 1,
        data = data + [_SETUP],
        kernel = _KERNEL,
        modules = _files(_KERNEL, _MODULES),
        **kwargs
    )

def rdma_nested_test(name, tests, args = [], memory = 768, deadline = 240, **kwargs):
    """nested_kvm_test with the device rxe0 at the address in FERRITE_TEST_RDMA.

    Args:
      name: the test.
      tests: labels of programs, which find the address there.
      args: more arguments of the driver.
      memory: MiB of the outer machine.
      deadline: seconds of its own time for all tests.
      **kwargs: passed on.
    """
    nested_kvm_test(
        name = name,
        args = _ENVIRONMENT + args,
        # One processor: with two, who is woken across them waits for milliseconds.
        cpus = 1,
        deadline = deadline,
        host_files = _HOST_FILES,
        kernel = _KERNEL,
        memory = memory,
        modules = _files(_KERNEL, _MODULES),
        setup = _SETUP,
        tests = tests,
        **kwargs
    )
