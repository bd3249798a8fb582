"""What the compiler is called with for each of our files, from `bazel aquery` (clang configuration)."""
import json
import os
import subprocess

# GCC's own, which the toolchain adds when it was configured for gcc.
_UNKNOWN_TO_CLANG = {"-fno-canonical-system-headers", "-Wno-free-nonheap-object", "-Wunused-but-set-parameter"}


def _bazel(*arguments):
    return subprocess.run(["bazel", *arguments], check=True, capture_output=True, text=True).stdout


def compile_commands(scope="//..."):
    """[{directory, file, arguments}], `file` relative to the workspace, each file once."""
    actions = json.loads(_bazel("aquery", "--config=clang", "--output=jsonproto", f'mnemonic("CppCompile", {scope})'))
    root = _bazel("info", "--config=clang", "execution_root").strip()
    commands = {}
    for action in actions.get("actions", []):
        arguments = action["arguments"]
        source = arguments[arguments.index("-c") + 1]
        if source.startswith(("external/", "bazel-out/")):
            continue
        commands[source] = {
            "directory": root,
            "file": source,
            "arguments": [argument for argument in arguments if argument not in _UNKNOWN_TO_CLANG],
        }
    return [commands[source] for source in sorted(commands)]


if __name__ == "__main__":
    workspace = _bazel("info", "workspace").strip()
    with open(os.path.join(workspace, "compile_commands.json"), "w", encoding="utf-8") as out:
        json.dump([dict(c, file=os.path.join(workspace, c["file"])) for c in compile_commands()], out, indent=1)
