"""debian_kernel: one of Debian's kernels as ./dev fetched it (vmlinuz, modules), for guests and nested tests."""

_ENTRIES = ["vmlinuz", "config", "modules", "version"]

def _debian_kernel_impl(context):
    environ = context.os.environ
    cache = environ.get("XDG_CACHE_HOME") or environ.get("HOME", "/root") + "/.cache"
    kernel = context.path(cache + "/ferrite/" + context.attr.kernel)
    instead = context.path(cache + "/ferrite/" + context.attr.modules_instead)
    context.symlink(Label("//third_party/debian_kernel:debian_kernel.BUILD"), "BUILD.bazel")
    if kernel.get_child("vmlinuz").exists:
        for entry in _ENTRIES:
            context.symlink(kernel.get_child(entry), entry)
    elif context.attr.modules_instead and instead.get_child("vmlinuz").exists:
        for entry in ["vmlinuz", "config"]:
            context.file(entry, "", executable = False)
        context.file("version", context.attr.kernel + " could not be fetched\n", executable = False)
        context.symlink(instead.get_child("modules"), "modules")
    else:
        fail("Debian's kernel is not in %s: run ./dev setup once" % kernel)

debian_kernel = repository_rule(
    implementation = _debian_kernel_impl,
    attrs = {
        "kernel": attr.string(mandatory = True, doc = "where ./dev leaves it below ~/.cache/ferrite"),
        "modules_instead": attr.string(doc = "For one that a mirror need not have: another kernel, whose modules have " +
                                             "the same names. Then vmlinuz is empty."),
    },
    environ = [
        "HOME",
        "XDG_CACHE_HOME",
    ],
    local = True,
)
