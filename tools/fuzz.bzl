"""ferrite_fuzz_test: one fuzz target, as a test of every run and as a libFuzzer binary."""

load("@rules_cc//cc:defs.bzl", "cc_test")

def ferrite_fuzz_test(name, srcs, deps = [], corpus = [], max_bytes = 4096, tags = [], **kwargs):
    """Builds and tests an `extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size)`.

    Usage, for a decoder in frame.cc:

        load("//tools:fuzz.bzl", "ferrite_fuzz_test")

        ferrite_fuzz_test(
            name = "frame_fuzz",
            srcs = ["frame_fuzz.cc"],
            corpus = glob(["testdata/frame_fuzz/*"]),
            deps = [":frame"],
        )

    frame_fuzz.cc defines the function above, returns 0, and aborts (FERRITE_CHECK, or a sanitizer) when something that
    must hold does not. It keeps no state from one input to the next.

    * `bazel test //...:frame_fuzz`, with any compiler and sanitizer: runs every corpus file, then some thousand inputs
      that are the same each time (random bytes, and the corpus changed a little). An input that kills it is printed
      as hexadecimal; put it into the corpus, or into a plain test of its own.
    * `bazel run --config=fuzz //...:frame_fuzz -- -max_total_time=600` fuzzes with libFuzzer, the corpus as the seed;
      all of libFuzzer's flags work. The targets have the tag "fuzz": `bazel query 'attr(tags, "\\bfuzz\\b", //...)'`.

    Args:
      name: the target; by convention it ends in _fuzz.
      srcs: the file with LLVMFuzzerTestOneInput.
      deps: what it tests.
      corpus: files of this package in a directory of their own, one input each.
      max_bytes: the longest input that is made.
      tags: added to the target's own.
      **kwargs: passed on to cc_test (data, size, timeout ...).
    """
    directories = {file.rpartition("/")[0]: True for file in corpus}.keys()
    kwargs.setdefault("size", "small")
    cc_test(
        name = name,
        srcs = srcs + select({
            "//tools:fuzz": [],
            "//conditions:default": ["//tools:fuzz_driver.cc"],
        }),
        args = select({
            "//tools:fuzz": ["-max_len=%d" % max_bytes, "-max_total_time=50"],
            "//conditions:default": ["--max_bytes=%d" % max_bytes],
        }) + ["%s/%s" % (native.package_name(), directory) for directory in directories],
        data = kwargs.pop("data", []) + corpus,
        linkopts = select({
            "//tools:fuzz": ["-fsanitize=fuzzer"],
            "//conditions:default": [],
        }),
        tags = tags + ["fuzz"],
        deps = deps + select({
            "//tools:fuzz": [],
            "//conditions:default": ["//third_party/system:gtest"],
        }),
        **kwargs
    )
