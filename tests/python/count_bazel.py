#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Counts the cases of a `bazel test` run: count_bazel.py OUTPUT TESTLOGS prints "passed failed skipped".

OUTPUT is what bazel printed (one line a target), TESTLOGS the folder of the tests' logs. A target's cmocka cases are
counted one by one; a target without them, or one that broke off, counts as a case itself. Standard library only.
"""
import pathlib
import re
import sys


def count(output, testlogs):
    passed = failed = skipped = 0
    for target, verdict in re.findall(r"^(//\S+)\s+(?:\(cached\) )?(PASSED|FAILED|TIMEOUT|FLAKY|NO STATUS|INCOMPLETE)",
                                      output, re.M):
        log = pathlib.Path(testlogs, target[2:].replace(":", "/"), "test.log")
        text = log.read_text(errors="replace") if log.exists() else ""
        ok = len(re.findall(r"^\[\s+OK \]", text, re.M))
        bad = len(re.findall(r"^\[\s+(?:FAILED|ERROR)\s+\] (?!\d+ test|---)", text, re.M))
        away = len(re.findall(r"^\[\s+SKIPPED \] (?!\d+ test|---)", text, re.M))
        # cmocka names each failed and skipped case a second time in its closing summary.
        summary = re.search(r"^\[\s+PASSED\s+\] \d+ test", text, re.M)
        if summary:
            bad = len(re.findall(r"^\[\s+(?:FAILED|ERROR)\s+\] (?!\d+ test|---)", text[:summary.start()], re.M))
            away = len(re.findall(r"^\[\s+SKIPPED \] (?!\d+ test|---)", text[:summary.start()], re.M))
        if verdict in ("PASSED", "FLAKY"):
            passed += ok or (0 if away else 1)
        else:
            passed += ok
            failed += max(bad, 1)
        skipped += away
    return passed, failed, skipped


if __name__ == "__main__":
    print(*count(pathlib.Path(sys.argv[1]).read_text(errors="replace"), sys.argv[2]))
