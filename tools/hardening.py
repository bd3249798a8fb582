#!/usr/bin/env python3
"""Says which hardening a program lacks (docs/security.md has the list); ends with 0 when it has all of it.

usage: hardening.py PROGRAM [--optimised]

The build's options (.bazelrc) are not looked at, but what they leave in the program, as readelf(1) and objdump(1) show
it. --optimised: fortified calls of the C library, too, which a compiler makes only when it optimises.
"""
import re
import subprocess
import sys

# What the loader and the linker make of it: of `readelf -W -h -l -d`.
HEADERS = (
    ("position independent (PIE)", r"Type:\s+DYN[\s\S]*Flags:.*\bPIE\b"),
    ("its relocated pages are read-only (RELRO)", r"GNU_RELRO"),
    ("all symbols bound at the start (BIND_NOW)", r"\bBIND_NOW\b|Flags:.*\bNOW\b"),
    ("no executable stack", r"GNU_STACK\s+(?:0x\w+\s+){5}RW\s"),
    ("no memory both writable and executable", r"\A(?![\s\S]*LOAD\s+(?:0x\w+\s+){5}RWE)"),
)
# Instructions of our own functions, since the libraries in the program have options of their own: of `objdump -d`.
OWN = re.compile(r"^\w+ <(?:main|_ZNK?\w*7ferrite\w*)(?:\.\w+)*>:\n(?:.+\n)+", re.MULTILINE)
INSTRUCTIONS = (
    ("stack protector", r"<__stack_chk_fail\b"),
    ("the C++ library's assertions", r"<_ZSt21__glibcxx_assert_fail"),
    ("Cap'n Proto's assertions", r"<_ZN2kj1_20inlineRequireFailure"),
    ("large stack frames are probed page by page (stack clash)", r"\tor[lq]?\s+\$0x0,\(%rsp\)"),
    ("indirect branches have marked targets (IBT)", r"<main>:\n.*\bendbr64\b"),
)
FORTIFIED = (("fortified calls of the C library", r"<__(?!stack)\w+_chk\b"),)


def output(*command):
    return subprocess.run(command, check=True, stdout=subprocess.PIPE, encoding="utf-8", errors="replace").stdout


def missing(program, optimised):
    lacks = []

    def look(text, checks):
        lacks.extend(name for name, pattern in checks if not re.search(pattern, text))

    look(output("readelf", "-W", "-h", "-l", "-d", program), HEADERS)
    own = "\n".join(OWN.findall(output("objdump", "-d", "--no-show-raw-insn", program)))
    look(own, INSTRUCTIONS + (FORTIFIED if optimised else ()))
    return lacks


def main():
    words = [word for word in sys.argv[1:] if word != "--optimised"]
    if len(words) != 1:
        sys.exit(__doc__)
    lacks = missing(words[0], "--optimised" in sys.argv)
    for name in lacks:
        print(f"hardening: {words[0]} lacks: {name}")
    return 1 if lacks else 0


if __name__ == "__main__":
    sys.exit(main())
