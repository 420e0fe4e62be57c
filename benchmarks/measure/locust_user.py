"""The Locust process: plans on stdin, a line each; outcomes on stdout; raw observations in files.

Run by the gate as ``python -m timberline.benchmarks.measure.locust_user``, never imported by it: Locust
patches the standard library on import. Latencies are the unrounded floats of Locust's ``request`` event.
"""

from __future__ import annotations

import contextlib
import math
import os
import random
import re
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from locust import FastHttpUser, task
from locust.env import Environment
from locust.exception import StopUser

from timberline.benchmarks.measure.formats import check_reply
from timberline.benchmarks.measure.records import Body, Observation, Outcome, Plan, Target, write_observations
from timberline.benchmarks.measure.services import read_each_cpu_s, run_users, serve_plans
from timberline.registry.runtime.cpus import RunQueue

# A service that fails every request would fail thousands in a window; these many are enough to know.
_MAX_FAILURES = 50
# Server Timing (W3C): what the service reports of its own time, in milliseconds.
_TIMES = re.compile(r"\b(handler|cpu|wait|wake);dur=([0-9.]+)")
# These, and the client's own time in the run queue.
_TIME_NAMES = ("handler", "cpu", "wait", "wake", "queue")
# Both services stay on one processor for so many cycles, some 20 ms: shorter than what neighbours do.
_STAY_CYCLES = 25


class Recorder:
    """Keeps the data of the ``request`` event in memory until the window is over."""

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self.observations: list[Observation] = []
        self.cycles = 0
        self.asked: Counter[str] = Counter()
        self.failed: Counter[str] = Counter()
        self.first_failure = ""
        self.began: float | None = None
        self.ended = 0.0
        self.processes = {target.arm: target.pid for target in plan.targets if target.pid is not None}
        self.cpu_began: dict[str, float] = {}
        self.cpu_s: dict[str, float] = {}

    @property
    def is_hopeless(self) -> bool:
        """So much has failed that the rest would not change the verdict."""
        return self.failed.total() >= _MAX_FAILURES

    def begin(self) -> float:
        """The first user to finish its warm-up opens the window; returns when it closes."""
        if self.began is None:
            self.cpu_began = read_each_cpu_s(self.processes)
            self.began = time.perf_counter()
        return self.began + self.plan.window_s

    def close(self) -> None:
        """Read what the services used since `begin`; to be called between two cycles, as it is."""
        now = read_each_cpu_s(self.processes)
        self.cpu_s = {arm: now[arm] - before for arm, before in self.cpu_began.items() if arm in now}

    def on_request(
        self, response_time: float, context: dict[str, Any], exception: Exception | None, **_: object
    ) -> None:
        """Listener of Locust's ``request`` event; ``response_time`` is milliseconds as a float."""
        problem = str(exception)[:200] if exception else ""
        self.asked[context["arm"]] += 1
        if problem:
            self.failed[context["arm"]] += 1
            self.first_failure = self.first_failure or f"{context['arm']}: {problem}"
        if context["pair"] is None or self.began is None:
            return
        self.ended = time.perf_counter()
        times = context["times"]
        self.observations.append(
            Observation(
                pair=context["pair"],
                position=context["position"],
                arm=context["arm"],
                body=context["body"],
                sent_s=self.ended - self.began - response_time / 1e3,
                latency_ms=response_time,
                problem=problem,
                **{f"{name}_ms": float(times.get(name, math.nan)) for name in _TIME_NAMES},
            )
        )


class DuetUser(FastHttpUser):
    """Sends the same body to every target, in random order, one request in flight."""

    abstract = True
    host = "http://127.0.0.1"
    plan: Plan
    recorder: Recorder
    count = 0

    def on_start(self) -> None:
        """Replay the golden rows and warm up; neither is measured."""
        type(self).count += 1
        self.random = random.Random(f"{self.plan.seed}-{type(self).count}")
        self.queue = RunQueue()
        for target in self.plan.targets:
            for body in target.golden:
                self._send(target, body, pair=None)
        for _ in range(self.plan.warmup_cycles):
            self._cycle(pair=None)
        self.closes = self.recorder.begin()

    @task
    def measure(self) -> None:
        """One measured cycle; the window ends between cycles, so that no pair is half there."""
        if self._is_over():
            self.recorder.close()
            raise StopUser
        pair = self.recorder.cycles
        self.recorder.cycles += 1
        if self.plan.placement == "shared" and pair % _STAY_CYCLES == 0:
            share_processor(self.plan.targets, self.random)
        self._cycle(pair)

    def _is_over(self) -> bool:
        late = time.perf_counter() - self.closes
        is_enough = self.recorder.cycles >= self.plan.min_cycles or late >= 2 * self.plan.window_s
        return self.recorder.is_hopeless or (late >= 0 and is_enough)

    def _cycle(self, pair: int | None) -> None:
        if self.recorder.is_hopeless:
            return
        index = self.random.randrange(len(self.plan.bodies))
        order = list(self.plan.targets)
        self.random.shuffle(order)
        for position, target in enumerate(order):
            self._send(target, self.plan.bodies[index], pair=pair, position=position, index=index)

    def _send(
        self, target: Target, body: Body, *, pair: int | None, position: int = 0, index: int = 0
    ) -> None:
        context: dict[str, Any] = {
            "arm": target.arm,
            "pair": pair,
            "position": position,
            "body": index,
            "times": {},
        }
        waited = self.queue.read_ns()
        with self.client.post(
            target.url + body.path.replace("{model}", target.model),
            data=body.payload,  # type: ignore[arg-type]  # bytes are sent as they are
            headers=body.headers,
            name=target.arm,
            context=context,
            catch_response=True,
        ) as response:
            if response.status_code == 0:
                return  # no reply at all: Locust reports the exception itself
            reported = response.headers.get("server-timing", "") if pair is not None else ""
            # In place: what Locust hands to the listener is a copy of the context around it.
            if self.queue.is_known:
                context["times"]["queue"] = (self.queue.read_ns() - waited) / 1e6
            context["times"].update((name, float(value)) for name, value in _TIMES.findall(reported))
            problem = check_reply(response.status_code, response.content, target, body, response.headers)
            if problem:
                response.failure(problem)
            else:
                response.success()


def share_processor(targets: Sequence[Target], chance: random.Random) -> None:
    """Put every thread of the targets on one and the same processor, drawn from those there are."""
    core = chance.choice(sorted(os.sched_getaffinity(0)))
    for target in targets:
        for thread in Path(f"/proc/{target.pid}/task").iterdir():
            with contextlib.suppress(ProcessLookupError):  # a thread that has just ended
                os.sched_setaffinity(int(thread.name), {core})


def run_plan(plan: Plan) -> Outcome:
    """Drive the targets and write the raw observations to ``plan.observations``."""
    recorder = Recorder(plan)
    user: Any = type(
        "PlannedUser",
        (DuetUser,),
        {
            "plan": plan,
            "recorder": recorder,
            "network_timeout": plan.request_timeout_s,
            "connection_timeout": plan.request_timeout_s,
        },
    )
    environment: Any = Environment(user_classes=[user], catch_exceptions=False)
    environment.events.request.add_listener(recorder.on_request)
    runner = environment.create_local_runner()
    jump, share = run_users(runner, plan.users)
    write_observations(Path(plan.observations), recorder.observations)
    return Outcome(
        cycles=recorder.cycles,
        failures=recorder.failed.total(),
        first_failure=recorder.first_failure,
        elapsed_s=recorder.ended - recorder.began if recorder.began and recorder.ended else 0.0,
        clock_jump_s=jump,
        cpu_share=share,
        asked=dict(recorder.asked),
        failed=dict(recorder.failed),
        cpu_s=recorder.cpu_s,
    )


if __name__ == "__main__":
    serve_plans(Plan, run_plan)
