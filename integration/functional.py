"""Runs Swift's functional suite against an endpoint and sums its outcomes.

functional.py FOLDER HOST:PORT [--keystone STATE] [PYTEST ARGUMENTS]

With --keystone the suite's users log in by Keystone v3. They are made first, by the admin whose openrc file is in STATE.
"""

import collections
import json
import os
import re
import subprocess
import sys
import urllib.error
import urllib.request
import xml.etree.ElementTree as tree

# Seconds one test may take.
TEST_SECONDS = 120

CONFIG = """
[func_test]
auth_uri = {auth}
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
{more}
[unit_test]
fake_syslog = False
"""

KEYSTONE = """
auth_version = 3
account4 = test4
username4 = tester4
password4 = testing4
domain4 = test-domain
"""

# Domain, project, user, password and role, as the suite's access control tests want them.
USERS = [
    ("Default", "test", "tester", "testing", "admin"),
    ("Default", "test2", "tester2", "testing2", "admin"),
    ("Default", "test", "tester3", "testing3", "_member_"),
    ("test-domain", "test4", "tester4", "testing4", "admin"),
    ("Default", "test5", "tester5", "testing5", "service"),
    ("Default", "test", "tester6", "testing6", "ResellerAdmin"),
]


class Keystone:
    """The identity service, called as its admin."""

    def __init__(self, state):
        with open(os.path.join(state, "admin-openrc"), encoding="utf-8") as file:
            said = dict(re.findall(r"^export (\w+)='(.*)'$", file.read(), re.MULTILINE))
        self.url = said["OS_AUTH_URL"]
        self.opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        domain = {"name": "Default"}
        user = {"name": said["OS_USERNAME"], "domain": domain, "password": said["OS_PASSWORD"]}
        login = {
            "identity": {"methods": ["password"], "password": {"user": user}},
            "scope": {"project": {"name": said["OS_PROJECT_NAME"], "domain": domain}},
        }
        self.token = ""
        with self.call("POST", "auth/tokens", {"auth": login}) as answer:
            self.token = answer.headers["X-Subject-Token"]

    def call(self, method, path, body=None):
        data = None if body is None else json.dumps(body).encode()
        headers = {"X-Auth-Token": self.token, "Content-Type": "application/json"}
        request = urllib.request.Request(f"{self.url}/{path}", data, headers, method=method)
        return self.opener.open(request, timeout=60)

    def made(self, kind, **fields):
        """The id of an entity; it is made if there is none of this name (in its domain)."""
        found = f"{kind}s?name={fields['name']}"
        if "domain_id" in fields:
            found += f"&domain_id={fields['domain_id']}"
        with self.call("GET", found) as answer:
            for one in json.load(answer)[f"{kind}s"]:
                return one["id"]
        with self.call("POST", f"{kind}s", {kind: fields}) as answer:
            return json.load(answer)[kind]["id"]

    def make_users(self):
        for domain, project, user, password, role in USERS:
            domain_id = self.made("domain", name=domain)
            project_id = self.made("project", name=project, domain_id=domain_id)
            user_id = self.made("user", name=user, domain_id=domain_id, password=password)
            role_id = self.made("role", name=role)
            self.call("PUT", f"projects/{project_id}/users/{user_id}/roles/{role_id}").close()


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
    auth, more = f"http://{where}/auth/v1.0", ""
    if chosen[:1] == ["--keystone"]:
        keystone = Keystone(chosen[1])
        keystone.make_users()
        auth, more, chosen = keystone.url, KEYSTONE, chosen[2:]
    config = os.path.join(folder, "test.conf")
    with open(config, "w", encoding="utf-8") as file:
        file.write(CONFIG.format(auth=auth, more=more))
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
