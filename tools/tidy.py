#!/usr/bin/env python3
"""clang-tidy over our sources, two at a time. A file that was clean is not looked at again until it, a header of ours
that it includes, or .clang-tidy changes (.setup/tidy remembers). Arguments: only these files."""
import concurrent.futures
import hashlib
import json
import os
import re
import subprocess
import sys
import tempfile

from compile_commands import compile_commands

_INCLUDE = re.compile(rb'^\s*#\s*include\s+"([^"]+)"', re.MULTILINE)
_REMEMBERED = ".setup/tidy"


def fingerprint(source):
    """Of a source file and every header of this tree that it reaches."""
    digest, seen, pending = hashlib.sha256(), set(), [".clang-tidy", source]
    while pending:
        path = pending.pop()
        if path in seen or not os.path.exists(path):
            continue
        seen.add(path)
        with open(path, "rb") as file:
            content = file.read()
        digest.update(path.encode() + b"\0" + content)
        pending += sorted(name.decode() for name in _INCLUDE.findall(content))
    return digest.hexdigest()


def main():
    os.chdir(os.path.join(os.path.dirname(os.path.abspath(__file__)), ".."))
    os.makedirs(_REMEMBERED, exist_ok=True)
    wanted = set(sys.argv[1:])
    commands = [c for c in compile_commands() if not wanted or c["file"] in wanted]
    todo = [(c, os.path.join(_REMEMBERED, fingerprint(c["file"]))) for c in commands]
    todo = [(command, mark) for command, mark in todo if wanted or not os.path.exists(mark)]
    # Headers are reported under the path they were included by: the execution root, or this tree.
    header_filter = "^(.*/)?(vmm|devices|migration|tests|bench|proto)/"
    failed = 0
    with tempfile.TemporaryDirectory() as database:
        with open(os.path.join(database, "compile_commands.json"), "w", encoding="utf-8") as out:
            json.dump([dict(c, file=os.path.abspath(c["file"])) for c in commands], out)

        def tidy(item):
            command, mark = item
            result = subprocess.run(
                ["clang-tidy", "--quiet", "-p", database, f"--header-filter={header_filter}",
                 os.path.abspath(command["file"])], capture_output=True, text=True, check=False)
            return command["file"], mark, result

        with concurrent.futures.ThreadPoolExecutor(max_workers=2) as pool:
            for source, mark, result in pool.map(tidy, todo):
                if result.returncode == 0 and "warning:" not in result.stdout:
                    open(mark, "w", encoding="utf-8").close()
                    continue
                failed += 1
                sys.stdout.write(result.stdout)
                if "error" in result.stderr:
                    sys.stdout.write(result.stderr)
    print(f"clang-tidy: {len(todo)} looked at, {failed} with findings")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
