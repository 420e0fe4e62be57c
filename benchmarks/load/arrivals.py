"""The Locust process of a load measurement: window plans on stdin, outcomes on stdout, a line each.

``python -m benchmarks.load.arrivals``. In an open loop one dispatching user keeps a timetable and gives
every arrival a greenlet of its own, and latency counts from when a request was due; in a closed loop
every user sends its next request when it has its answer. Both go through the ``request`` event, whose
floats are kept as they are.

No module imports this one: Locust patches the standard library on import.
"""

from __future__ import annotations

import itertools
import random
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import gevent.pool
import gevent.socket
from locust import User, task
from locust.env import Environment
from locust.exception import StopUser

from timberline.benchmarks.load.connections import Connections, Reply, write_request
from timberline.benchmarks.load.timetable import Alarm, draw_schedule, run_timetable
from timberline.benchmarks.load.window import Arrival, Ending, WindowOutcome, WindowPlan, write_arrivals
from timberline.benchmarks.measure.formats import check_reply
from timberline.benchmarks.measure.records import Body
from timberline.benchmarks.measure.services import run_users, serve_plans

# A broken service would fail thousands of requests; so many are enough.
_MAX_WRONG = 50
# Between the last preparation and the first arrival.
_LEAD_S = 0.02
# No room, or no time: what the service answers when it is asked for more than it can do.
_REFUSALS = frozenset({503, 504})


class Window:
    """The state of one window: its requests, and the replies so far."""

    def __init__(self, plan: WindowPlan) -> None:
        self.plan = plan
        host, _, port = plan.target.url.removeprefix("http://").partition(":")
        connect = gevent.socket.create_connection
        self.connections = Connections(partial(connect, (host, int(port)), plan.request_timeout_s))
        self.requests = [write_request(plan.target, body) for body in plan.bodies]
        self.arrivals: list[Arrival] = []
        self.scheduled = 0
        self.in_flight = 0
        self.wrong = 0
        self.late = 0
        self.is_cut = False
        self.open()

    def open(self) -> None:
        """Let the window's time begin now."""
        self.began = self.ended = time.perf_counter()

    @property
    def is_over(self) -> bool:
        """Whether the result of the window is certain already."""
        return self.is_cut or self.wrong >= _MAX_WRONG or self.late > max(1.0, 0.01 * self.scheduled)

    def draw_indexes(self) -> Iterator[int]:
        """Which body comes next, without end; the same for equal seeds."""
        chance = random.Random(f"{self.plan.seed}-bodies")
        return (chance.randrange(len(self.requests)) for _ in itertools.count())

    def warm_up(self) -> str:
        """Send every golden row and some bodies, one after the other; the first problem, or ""."""
        golden = [(write_request(self.plan.target, body), body) for body in self.plan.target.golden]
        indexes = itertools.islice(self.draw_indexes(), self.plan.warmup_requests)
        warm = [(self.requests[index], self.plan.bodies[index]) for index in indexes]
        for request, body in [*golden, *warm]:
            ending, problem = self.ask(request, body)[1:]
            if ending != "right":
                return problem
        return ""

    def ask(self, request: bytes, body: Body) -> tuple[float, Ending, str]:
        """Send one request: when its answer was whole, how it ended, and what was wrong with it."""
        try:
            reply = self.connections.exchange(request)
        except TimeoutError:
            silence = f"no answer in {self.plan.request_timeout_s:g} s"
            return time.perf_counter(), "refused", silence
        except OSError as error:
            return time.perf_counter(), "wrong", str(error)
        return time.perf_counter(), *self._judge(reply, body)

    def _judge(self, reply: Reply, body: Body) -> tuple[Ending, str]:
        problem = check_reply(reply.status, reply.content, self.plan.target, body, reply.headers)
        if not problem:
            return "right", ""
        return ("refused" if reply.status in _REFUSALS else "wrong"), problem[:200]

    def on_request(self, response_time: float, context: dict[str, Any], **_: object) -> None:
        """Listener of Locust's ``request`` event; ``response_time`` is milliseconds from the due time."""
        self.wrong += context["ending"] == "wrong"
        self.arrivals.append(Arrival(latency_ms=response_time, **context))

    def report(self, environment: Environment, number: int, index: int, due: float) -> None:
        """Send body ``index`` now, as request ``number`` that is due at ``due``, and fire Locust's event."""
        sent = time.perf_counter()
        self.in_flight += 1
        self.late += (sent - due) * 1e3 > self.plan.max_lag_ms
        answered, ending, problem = self.ask(self.requests[index], self.plan.bodies[index])
        self.in_flight -= 1
        self.ended = max(self.ended, answered)
        environment.events.request.fire(  # type: ignore[no-untyped-call]
            request_type="POST",
            name=self.plan.target.arm,
            response_time=(answered - due) * 1e3,
            response_length=0,
            exception=RuntimeError(problem) if problem else None,
            context={
                "number": number,
                "body": index,
                "due_s": due - self.began,
                "lag_ms": (sent - due) * 1e3,
                "ending": ending,
                "problem": problem,
            },
        )


class DispatchingUser(User):
    """Open loop: sends on a timetable, whether earlier requests have been answered or not."""

    abstract = True
    window: Window

    @task
    def dispatch(self) -> None:
        """One window."""
        window, plan = self.window, self.window.plan
        assert plan.rate_rps is not None
        due = draw_schedule(plan.rate_rps, plan.window_s, plan.seed).tolist()
        indexes = list(itertools.islice(window.draw_indexes(), len(due)))
        group, alarm = gevent.pool.Group(), Alarm()
        window.scheduled = len(due)
        window.began = time.perf_counter() + _LEAD_S

        def send(number: int, due_at: float) -> bool:
            window.is_cut = window.in_flight >= plan.max_in_flight
            if window.is_over:
                return False
            group.spawn(window.report, self.environment, number, indexes[number], due_at)
            return True

        run_timetable(due, window.began, now=time.perf_counter, wait_until=alarm.wait_until, send=send)
        group.join()
        alarm.close()
        raise StopUser


class LoopingUser(User):
    """Closed loop: sends its next request when it has the answer to the last one."""

    abstract = True
    window: Window
    indexes: Iterator[int]

    @task
    def measure(self) -> None:
        """One request, until the window is over."""
        window = self.window
        if time.perf_counter() >= window.began + window.plan.window_s or window.is_over:
            raise StopUser
        number = window.scheduled
        window.scheduled += 1
        window.report(self.environment, number, next(self.indexes), time.perf_counter())


def run_window(plan: WindowPlan) -> WindowOutcome:
    """Put the target under load and write the raw observations to ``plan.observations``."""
    window = Window(plan)
    warmup_problem = window.warm_up()
    jump = share = 0.0
    if not warmup_problem:
        jump, share = _run_users(window)
    window.connections.close()
    write_arrivals(Path(plan.observations), window.arrivals)
    return WindowOutcome(
        scheduled=window.scheduled,
        is_cut=window.is_cut,
        warmup_problem=warmup_problem,
        elapsed_s=window.ended - window.began,
        clock_jump_s=jump,
        cpu_share=share,
    )


def _run_users(window: Window) -> tuple[float, float]:
    """Run the window in Locust; how far the clocks parted in seconds, and the processor's share."""
    is_open = window.plan.rate_rps is not None
    base = DispatchingUser if is_open else LoopingUser
    user: Any = type("PlannedUser", (base,), {"window": window, "indexes": window.draw_indexes()})
    environment: Any = Environment(user_classes=[user], catch_exceptions=False)
    environment.events.request.add_listener(window.on_request)
    runner = environment.create_local_runner()
    users = 1 if is_open else window.plan.users
    return run_users(runner, users, window.open)


if __name__ == "__main__":
    serve_plans(WindowPlan, run_window)
