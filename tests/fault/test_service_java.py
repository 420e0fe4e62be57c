"""Clients that offer HTTP/2 in ``Upgrade: h2c`` with every request: the JDK's by default, curl when asked."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.support.service import DEADLINE_S, RunningService

ROW = json.dumps({"rings": 40})
BATCH = json.dumps({"instances": [{"rings": 40}] * 300})
# Beyond what a client sends before it has asked whether it may (Expect: 100-continue).
LONG = '{"instances": [' + ", ".join(['{"rings": 40, "height": 12.5%s}' % ("0" * 100)] * 9_900) + "]}"
REPEATS = 3
# `java Client.java URL ROW BATCH` runs a source file; it writes a line for each answer: the client, what
# it sent, status, version, body.
JAVA = """
import java.io.*;
import java.net.URI;
import java.net.http.*;
import java.net.http.HttpRequest.*;
import java.time.Duration;

public class Client {
  public static void main(String[] given) throws Exception {
    for (var version : new HttpClient.Version[]{null, HttpClient.Version.HTTP_1_1}) {
      var builder = HttpClient.newBuilder();
      if (version != null) builder.version(version);
      var client = builder.build();
      for (int i = 0; i < REPEATS; i++) {
        say(client, version, "row", post(given[0], BodyPublishers.ofString(given[1])));
        say(client, version, "batch", post(given[0], BodyPublishers.ofString(given[2])));
        say(client, version, "chunked", post(given[0], BodyPublishers.ofInputStream(
            () -> new ByteArrayInputStream(given[1].getBytes()))));
        say(client, version, "expect", post(given[0], BodyPublishers.ofString(given[1]))
            .expectContinue(true));
        say(client, version, "get", HttpRequest.newBuilder(URI.create(given[0] + "/v2")));
      }
    }
  }

  static HttpRequest.Builder post(String url, BodyPublisher body) {
    return HttpRequest.newBuilder(URI.create(url + "/predict"))
        .header("content-type", "application/json").POST(body);
  }

  static void say(HttpClient client, HttpClient.Version version, String what, HttpRequest.Builder request)
      throws Exception {
    var answer = client.send(
        request.timeout(Duration.ofSeconds(20)).build(), HttpResponse.BodyHandlers.ofString());
    System.out.println(
        (version == null ? "default" : version) + " " + what + " " + answer.statusCode() + " "
        + answer.version() + " " + answer.body());
  }
}
""".replace("REPEATS", str(REPEATS))


def has_jdk() -> bool:
    """Whether ``java`` is there and can run a source file."""
    if shutil.which("java") is None:
        return False
    modules = subprocess.run(["java", "--list-modules"], capture_output=True, text=True, check=False).stdout
    return "jdk.compiler" in modules and "java.net.http" in modules


def curl_offers_http2() -> bool:
    """Whether ``curl`` is there and was built with HTTP/2."""
    if shutil.which("curl") is None:
        return False
    version = subprocess.run(["curl", "--version"], capture_output=True, text=True, check=True).stdout
    return "HTTP2" in version


def count_requests(service: RunningService) -> dict[str, int]:
    """Requests that the service has answered, by route and status."""
    _, _, metrics = service.request("GET", "/metrics")
    found: dict[str, int] = {}
    for line in re.findall(r"^http_requests_total\{.*", metrics.decode(), re.MULTILINE):
        labels = dict(re.findall(r'(\w+)="([^"]*)"', line))
        key = f"{labels['route']} {labels['status']}"
        found[key] = found.get(key, 0) + int(float(line.rpartition(" ")[2]))
    return found


@pytest.mark.skipif(not has_jdk(), reason="no JDK on this machine")
def test_the_jdks_client_is_answered_with_its_defaults(service: RunningService, tmp_path: Path) -> None:
    """Every Java program that does not know better sends ``Upgrade: h2c``, and a body with it."""
    source = tmp_path / "Client.java"
    source.write_text(JAVA)
    url = f"http://{service.host}:{service.port}"
    command = ["java", str(source), url, ROW, BATCH]
    done = subprocess.run(command, capture_output=True, text=True, timeout=2 * DEADLINE_S, check=False)
    assert done.returncode == 0, done.stderr + service.log
    lines = [line.split(" ", 4) for line in done.stdout.splitlines()]
    assert len(lines) == 2 * 5 * REPEATS
    assert [line for line in lines if line[2:4] != ["200", "HTTP_1_1"]] == []
    expected = {"row": service.predict({"rings": 40})[1], "batch": service.predict(json.loads(BATCH))[1]}
    expected |= {"chunked": expected["row"], "expect": expected["row"], "get": service.get_json("/v2")}
    assert [line for line in lines if json.loads(line[4]) != expected[line[1]]] == []
    counted = count_requests(service)
    assert counted["/predict 200"] == 2 * 4 * REPEATS + 2
    assert counted["/v2 200"] == 2 * REPEATS + 1
    assert not [key for key in counted if key.endswith(("400", "501"))]


@pytest.mark.skipif(not curl_offers_http2(), reason="no curl with HTTP/2 on this machine")
@pytest.mark.parametrize("body", [ROW, BATCH, LONG], ids=["row", "batch", "long"])
def test_curl_that_offers_http2_is_answered(service: RunningService, tmp_path: Path, body: str) -> None:
    """``curl --http2`` is what people try a service with; several requests go over one connection."""
    (tmp_path / "body").write_text(body)
    url = f"http://{service.host}:{service.port}/predict"
    command = ["curl", "-s", "--http2", "-H", "content-type: application/json", "-w", "\n%{http_code}\n"]
    command += ["--data-binary", f"@{tmp_path / 'body'}", *[url] * REPEATS]
    done = subprocess.run(command, capture_output=True, text=True, timeout=DEADLINE_S, check=False)
    assert done.returncode == 0, done.stderr + service.log
    answers, statuses = done.stdout.splitlines()[::2], done.stdout.splitlines()[1::2]
    assert statuses == ["200"] * REPEATS, done.stdout
    expected = service.predict(json.loads(body))[1]
    assert [json.loads(answer) for answer in answers] == [expected] * REPEATS
    counted = count_requests(service)
    assert {key: n for key, n in counted.items() if "/predict" in key} == {"/predict 200": REPEATS + 1}
