"""Runs Swift's functional suite against an endpoint and sums its outcomes: functional.py FOLDER HOST:PORT [PYTEST ARGUMENTS]."""

import collections
import os
import subprocess
import sys
import xml.etree.ElementTree as tree

# Seconds one test may take.
TEST_SECONDS = 120

CONFIG = """
[func_test]
auth_uri = http://{where}/auth/v1.0
account = test
username = tester
password = testing
account2 = test2
username2 = tester2
password2 = testing2
username3 = tester3
password3 = testing3
account5 = test5
username5 = tester5
password5 = testing5
service_prefix = SERVICE
account6 = test
username6 = tester6
password6 = testing6
collate = C
insecure = no
storage_domain = example.com
[unit_test]
fake_syslog = False
"""


def outcomes(report):
    """The worst outcome of each test in a JUnit report."""
    rank = {"passed": 0, "skipped": 1, "failed": 2}
    found = {}
    for case in tree.parse(report).getroot().iter("testcase"):
        outcome = "passed"
        for child in case:
            if child.tag in ("failure", "error"):
                outcome = "failed"
            elif child.tag == "skipped" and outcome != "failed":
                outcome = "skipped"
        name = case.get("classname", "") + "::" + case.get("name", "")
        if name not in found or rank[outcome] > rank[found[name]]:
            found[name] = outcome
    return found


def main():
    folder, where, chosen = sys.argv[1], sys.argv[2], sys.argv[3:]
    config = os.path.join(folder, "test.conf")
    with open(config, "w", encoding="utf-8") as file:
        file.write(CONFIG.format(where=where))
    report = os.path.join(folder, "junit.xml")
    if os.path.exists(report):
        os.remove(report)
    environment = dict(os.environ, SWIFT_TEST_CONFIG_FILE=config, no_proxy="*", NO_PROXY="*")
    for name in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"):
        environment.pop(name, None)
    command = [
        os.path.join(folder, "venv/bin/python"), "-m", "pytest", "-q", "-o", "addopts=",
        "-o", "python_files=test_*.py tests.py", "-p", "no:cacheprovider", "-rfE", "--tb=short",
        f"--timeout={TEST_SECONDS}", f"--junitxml={report}",
    ]
    command += chosen or ["--ignore=test/functional/s3api", "test/functional"]
    log = os.path.join(folder, "log")
    with open(log, "w", encoding="utf-8") as file:
        subprocess.run(command, cwd=os.path.join(folder, "suite"), env=environment, stdout=file,
                       stderr=subprocess.STDOUT, check=False)
    if not os.path.exists(report):
        print(f"the suite did not run; see {log}")
        print("passed 0 failed 1 skipped 0")
        return 1
    found = outcomes(report)
    with open(os.path.join(folder, "outcomes.txt"), "w", encoding="utf-8") as file:
        for name in sorted(found):
            file.write(f"{found[name]} {name}\n")
    total = collections.Counter(found.values())
    print("passed %d failed %d skipped %d" % (total["passed"], total["failed"], total["skipped"]))
    return 0


sys.exit(main())
