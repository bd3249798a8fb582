"""guest_initramfs: the root of a small Linux guest: busybox, Debian's virtio modules, an init script and programs."""

# In the order of loading; the cloud kernel has ext4 and the serial console built in.
VIRTIO_MODULES = [
    "drivers/virtio/virtio_ring.ko",
    "drivers/virtio/virtio.ko",
    "drivers/virtio/virtio_mmio.ko",
    "drivers/block/virtio_blk.ko",
    "drivers/virtio/virtio_balloon.ko",
    "drivers/char/hw_random/virtio-rng.ko",
]

def guest_program(name, srcs, hdrs = []):
    """A static program for the guest, warnings are errors. --copt (sanitizers, coverage) is not for guests."""
    native.genrule(
        name = name + "_program",
        srcs = srcs + hdrs,
        outs = [name],
        cmd = "$(CC) -std=c++20 -O2 -Wall -Wextra -Werror -fno-exceptions -fno-rtti -static -pthread -I. -o $@ " +
              " ".join(["$(execpaths %s)" % source for source in srcs]),
        toolchains = ["@bazel_tools//tools/cpp:current_cc_toolchain"],
    )

def guest_initramfs(name, init, programs = [], modules = VIRTIO_MODULES, kernel = "@debian_kernel", **kwargs):
    """Packs NAME.cpio.gz.

    Args:
      name: the target.
      init: the script that becomes /init.
      programs: labels of static programs; they are in the guest's PATH.
      modules: below lib/modules/VERSION/kernel of the guest's kernel; /modules/order lists them in this order.
      kernel: the repository of the guest's kernel (third_party/debian_kernel).
      **kwargs: passed on to genrule.
    """
    labels = [kernel + "//:modules/" + module for module in modules]
    native.genrule(
        name = name,
        srcs = [init] + programs + labels,
        outs = [name + ".cpio.gz"],
        cmd = " && ".join([
            "root=$$(mktemp -d)",
            "mkdir $$root/bin $$root/modules",
            "cp /bin/busybox $$root/bin/busybox",
            "cp $(execpath %s) $$root/init" % init,
        ] + ["cp $(execpath %s) $$root/bin/" % program for program in programs] + [
            "chmod 755 $$root/init $$root/bin/*",
        ] + [
            "cp -L $(execpath %s) $$root/modules/ && echo %s >>$$root/modules/order" % (label, label.split("/")[-1])
            for label in labels
        ] + [
            # The same bytes every time: fixed times, sorted names, no inode numbers.
            "find $$root -exec touch -h -d @0 {} +",
            "(cd $$root && find . | LC_ALL=C sort | cpio -o -H newc -R 0:0 --reproducible --quiet) | gzip -9n >$@",
            "rm -rf $$root",
        ]),
        **kwargs
    )
