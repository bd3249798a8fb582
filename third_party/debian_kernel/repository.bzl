"""debian_kernel: Debian's cloud kernel as ./dev fetched it (vmlinuz, its modules), for guests and nested tests."""

def _debian_kernel_impl(context):
    environ = context.os.environ
    cache = environ.get("XDG_CACHE_HOME") or environ.get("HOME", "/root") + "/.cache"
    kernel = context.path(cache + "/ferrite/linux-image-cloud-amd64")
    if not kernel.get_child("vmlinuz").exists:
        fail("Debian's kernel is not in %s: run ./dev setup once" % kernel)
    for entry in ["vmlinuz", "config", "modules", "version"]:
        context.symlink(kernel.get_child(entry), entry)
    context.symlink(Label("//third_party/debian_kernel:debian_kernel.BUILD"), "BUILD.bazel")

debian_kernel = repository_rule(
    implementation = _debian_kernel_impl,
    environ = [
        "HOME",
        "XDG_CACHE_HOME",
    ],
    local = True,
)
