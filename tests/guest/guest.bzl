"""guest_program: a freestanding 64-bit program that a ferrite machine boots in place of a kernel."""

load("@bazel_tools//tools/cpp:toolchain_utils.bzl", "find_cpp_toolchain")

_FLAGS = [
    "-std=c++20",
    "-O2",
    "-g1",
    "-Wall",
    "-Wextra",
    "-Werror",
    "-Wno-missing-field-initializers",
    "-ffreestanding",
    "-fno-exceptions",
    "-fno-rtti",
    "-fno-threadsafe-statics",
    "-fno-use-cxa-atexit",
    "-fno-stack-protector",
    "-fno-asynchronous-unwind-tables",
    "-fno-omit-frame-pointer",
    "-fcf-protection=none",
    "-fno-pic",
    "-fno-pie",
    "-mno-red-zone",
    # The compiler leaves the vector registers alone: programs plant patterns there and look whether they last.
    "-mgeneral-regs-only",
    "-nostdlib",
    "-static",
    "-Wl,--build-id=none",
    "-Wl,-z,max-page-size=4096",
    "-Wl,-z,noexecstack",
]

def _guest_program_impl(ctx):
    # The compiler is called directly: --copt (sanitizers, coverage) is for the monitor, not for its guests.
    toolchain = find_cpp_toolchain(ctx)
    sources = ctx.files.srcs + ([] if ctx.attr.bare else ctx.files._runtime_srcs)
    inputs = sources + ctx.files.hdrs + ctx.files._runtime_hdrs + [ctx.file._linker_script]
    program = ctx.actions.declare_file(ctx.label.name)
    args = ctx.actions.args()
    args.add_all(_FLAGS)
    args.add("-I.")
    args.add(ctx.file._linker_script, format = "-Wl,-T,%s")
    args.add("-o", program)
    args.add_all(sources)
    ctx.actions.run(
        executable = toolchain.compiler_executable,
        arguments = [args],
        inputs = depset(inputs, transitive = [toolchain.all_files]),
        outputs = [program],
        env = {"PATH": "/usr/bin:/bin"},
        mnemonic = "GuestProgram",
        progress_message = "Building guest %s" % ctx.label,
    )
    return [DefaultInfo(files = depset([program]), runfiles = ctx.runfiles([program]))]

guest_program = rule(
    implementation = _guest_program_impl,
    doc = "A static ELF64 file made of `srcs` and, unless it is `bare`, the runtime; tests take it as `data`.",
    attrs = {
        "srcs": attr.label_list(allow_files = [".cc", ".S"], mandatory = True),
        "hdrs": attr.label_list(allow_files = [".h"]),
        "bare": attr.bool(),
        "_runtime_srcs": attr.label(default = "//tests/guest:runtime_srcs"),
        "_runtime_hdrs": attr.label(default = "//tests/guest:runtime_hdrs"),
        "_linker_script": attr.label(default = "//tests/guest:guest.ld", allow_single_file = True),
        "_cc_toolchain": attr.label(default = "@bazel_tools//tools/cpp:current_cc_toolchain"),
    },
    toolchains = ["@bazel_tools//tools/cpp:toolchain_type"],
)
