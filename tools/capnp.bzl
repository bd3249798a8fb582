"""capnp_cc_library: a Cap'n Proto schema as a C++ library."""

load("@rules_cc//cc:defs.bzl", "cc_library")

def capnp_cc_library(name, src, deps = [], imports = [], interfaces = False, **kwargs):
    """Compiles one schema.

    Args:
      name: the library; its header is included as "<package>/<src>.h".
      src: the .capnp file.
      deps: capnp_cc_library targets of the schemas that it imports.
      imports: those schemas' .capnp files.
      interfaces: whether it has any: what calls them is linked, too.
      **kwargs: passed on to cc_library.
    """
    native.genrule(
        name = name + "_gen",
        srcs = [src] + imports,
        outs = [src + ".h", src + ".c++"],
        cmd = "capnp compile -I/usr/include -I. --src-prefix=$$(dirname $(location %s)) -oc++:$(RULEDIR) $(location %s)" % (src, src),
    )
    cc_library(
        name = name,
        srcs = [src + ".c++"],
        hdrs = [src + ".h"],
        # The generated code is not ours to keep free of warnings.
        copts = ["-w"],
        deps = deps + ["//third_party/system:capnp_rpc" if interfaces else "//third_party/system:capnp"],
        **kwargs
    )
