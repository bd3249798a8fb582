#!/bin/bash
# Turns the *.gcda files of one test run into one lcov trace (the job of Bazel's LcovMerger).
set -u
for argument in "$@"; do
  case "$argument" in
    --coverage_dir=*) dir="${argument#*=}" ;;
    --output_file=*) out="${argument#*=}" ;;
  esac
done
# gcov wants each .gcno beside its .gcda.
find "$dir" -name '*.gcda' | while read -r gcda; do
  gcno="${gcda%.gcda}.gcno"
  [ -e "$gcno" ] && continue
  relative="${gcno#"$dir"/}"
  cp -L "$ROOT/$relative" "$gcno" 2>/dev/null ||
    find -L "$ROOT" "$PWD" -name "$(basename "$gcno")" -print0 -quit 2>/dev/null |
    xargs -0 -r -I{} cp -L {} "$gcno"
done
/usr/bin/lcov -q -c -d "$dir" -b "$ROOT" --no-external -o "$out" >/dev/null 2>&1 ||
  /usr/bin/lcov -q -c -d "$dir" -o "$out" >/dev/null 2>&1 || : >"$out"
sed -i 's|^SF:.*/execroot/[^/]*/|SF:|' "$out"
