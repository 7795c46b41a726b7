"""Many people at once: does everybody get his own result, in fair time, and does the memory stay where it is?

    python -m benchmarks.load [--minutes 10] [--sessions 50] [--clients 32] [--leavers 6] [--kill] [--no-save]

Starts the real app and the real endpoint, on the built-in model, each in a process of its own. `sessions` browsers'
worth of gradio_client run image to image in the app, `clients` decode at the endpoint. Each of them has jobs that
nobody else has; these are computed alone first, and every later result must be the same picture bit for bit and carry
its own job's recipe. Both queues are smaller than the crowd, so that some are refused as "busy" and come again. Beside
them `leavers` visitors of the page itself leave in every stage, send files that mean harm, and take finished pictures
back to it (`benchmarks/leavers.py`). Event loops and C heaps are watched (`benchmarks/watch.py`).

With --kill both processes are killed (-9) in mid-run and started again; everything that was reported finished before
must then still be on the disk and downloadable.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import os
import random
import re
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import psutil
import requests
from gradio_client import Client, handle_file
from PIL import Image, ImageDraw

from backend.models import BUILTIN
from benchmarks.common import machine, publish
from benchmarks.leavers import BUSY_SIGNS, Deeds, page_of, trouble
from benchmarks.visitor import PATIENCE
from benchmarks.watch import Observation, observe

ROOT = Path(__file__).parent.parent
SIDE = 64
"""Pixels of every picture: small jobs, so that the crowd and not the arithmetic is the load."""
LATENT_SIDE = SIDE // BUILTIN.latents.downscale
JOBS_EACH = 1
"""Different jobs of one session or client."""
THINKING = 0.5
"""Maximum seconds between having a result and asking for the next. Without any, those who are inside would take every
place again before those who were refused come back."""
Outcome = Literal["ok", "busy", "interrupted", "failed", "swapped", "lost"]
"""interrupted: the server was killed under it. lost: no answer at all."""
WRONG: tuple[Outcome, ...] = ("failed", "swapped", "lost")
OUTCOMES: tuple[Outcome, ...] = ("ok", "busy", "interrupted", "failed", "swapped", "lost")


@dataclass(frozen=True)
class LoadPlan:
    """How long, how many, and whether the processes are killed on the way."""

    seconds: float
    sessions: int
    clients: int
    leavers: int = 0
    kill: bool = False
    queue_share: float = 0.8
    """Places in each queue, as a share of those who come."""
    count_objects: bool = False


@dataclass(frozen=True)
class ImageJob:
    """One session's own job, and what it gives when nobody else is there."""

    prompt: str
    seed: int
    pixels: bytes = b""


@dataclass
class Tally:
    """What one client has seen. Only its own thread writes to it."""

    name: str
    outcomes: Counter[str] = field(default_factory=Counter)
    waits: list[float] = field(default_factory=list)
    """Seconds from asking to having, of the good ones."""
    messages: Counter[str] = field(default_factory=Counter)
    finished: list[tuple[str, str]] = field(default_factory=list)
    """(nonce, address) of every picture that was reported finished."""

    def note(self, outcome: Outcome, message: str = "") -> None:
        self.outcomes[outcome] += 1
        if message:
            self.messages[message[:160]] += 1


class Server:
    """A process of ours on a port of its own, that can be killed and started again there."""

    def __init__(self, command: Sequence[str], ready: str, log: Path, environment: dict[str, str]) -> None:
        self.port, self.watch = free_port(), free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        watch = ("-m", "benchmarks.watch", str(self.watch))
        self._command = [sys.executable, *watch, *command, "--port", str(self.port)]
        self.ready = ready
        self.log = log
        self._environment = {**os.environ, **environment}
        self.process: subprocess.Popen[bytes] | None = None
        self.killed_at: list[float] = []
        self.up = threading.Event()

    def start(self) -> None:
        """Raises RuntimeError if it does not answer within two minutes."""
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                self._command, cwd=ROOT, stdout=log, stderr=subprocess.STDOUT, env=self._environment
            )
        deadline = time.monotonic() + 120
        while time.monotonic() < deadline and self.process.poll() is None:
            with contextlib.suppress(requests.RequestException):
                if requests.get(f"{self.url}{self.ready}", timeout=5).status_code == 200:
                    self.up.set()
                    return
            time.sleep(0.1)
        raise RuntimeError(f"{' '.join(self._command)} did not come up:\n{self.log.read_text()[-2000:]}")

    def kill(self) -> None:
        assert self.process is not None
        self.up.clear()
        self.killed_at.append(time.monotonic())
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()

    def stop(self) -> None:
        if self.process is not None and self.process.poll() is None:
            self.process.terminate()
            try:
                self.process.wait(20)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()

    def rss(self) -> int | None:
        """Resident bytes of the process and its children."""
        try:
            assert self.process is not None
            process = psutil.Process(self.process.pid)
            return sum(one.memory_info().rss for one in (process, *process.children(recursive=True)))
        except psutil.Error:
            return None

    def was_killed_since(self, when: float) -> bool:
        return any(moment >= when for moment in self.killed_at) or not self.up.is_set()


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--minutes", type=float, default=10.0, help="length of the run (default 10)")
    parser.add_argument("--sessions", type=int, default=50, help="gradio_client sessions (default 50)")
    parser.add_argument("--clients", type=int, default=32, help="clients of the endpoint (default 32)")
    parser.add_argument(
        "--leavers", type=int, default=6, help="visitors who make trouble (default 6; with --kill none)"
    )
    parser.add_argument(
        "--objects", action="store_true", help="also count Python's objects by type; each count is a pause"
    )
    parser.add_argument("--kill", action="store_true", help="kill -9 both processes in mid-run")
    parser.add_argument("--note", default="", help="a remark kept with the figures")
    parser.add_argument("--no-save", action="store_true", help="print only, write no file")
    options = parser.parse_args()
    plan = LoadPlan(
        options.minutes * 60,
        options.sessions,
        options.clients,
        0 if options.kill else options.leavers,
        options.kill,
        count_objects=options.objects,
    )
    with tempfile.TemporaryDirectory() as folder:
        result = run(plan, Path(folder), report=lambda text: print(text, file=sys.stderr, flush=True))
    print(table(result), file=sys.stderr)
    name = "load-kill-cpu" if plan.kill else "load-leavers-cpu" if plan.leavers else "load-cpu"
    publish(name, {"machine": machine(), "note": options.note} | result, save=not options.no_save)
    sys.exit(0 if sound(result) else 1)


def run(plan: LoadPlan, folder: Path, report: Callable[[str], None] = lambda _: None) -> dict[str, Any]:
    """The whole thing; gives the figures. Everything that is written lies in `folder`."""
    app, endpoint = servers(plan, folder)
    try:
        with ThreadPoolExecutor() as pool:
            list(pool.map(Server.start, (app, endpoint)))
        report("computing every job alone")
        picture = folder / "in.png"
        sketch().save(picture)
        image_jobs = alone(app, picture, plan.sessions)
        to_decode = decodings(endpoint, plan.clients)
        page = page_of(app.url)
        report(
            f"{plan.sessions} sessions, {plan.clients} clients and {plan.leavers} leavers for {plan.seconds:.0f} s"
        )
        # The pages are open before the clock starts, as a crowd's are.
        sessions = [Session(app, picture) for _ in range(plan.sessions)]
        watched = {"app": Watched(app), "endpoint": Watched(endpoint)}
        begin = time.monotonic()
        end = begin + plan.seconds
        session_tallies = [Tally(f"session {index}") for index in range(plan.sessions)]
        client_tallies = [Tally(f"client {index}") for index in range(plan.clients)]
        deeds = Deeds()
        threads = (
            [
                threading.Thread(target=run_jobs, args=(sessions[index], image_jobs[index], tally, end))
                for index, tally in enumerate(session_tallies)
            ]
            + [
                threading.Thread(target=decode, args=(endpoint, to_decode[index], tally, end))
                for index, tally in enumerate(client_tallies)
            ]
            + [
                threading.Thread(target=trouble, args=(page, deeds, end, index))
                for index in range(plan.leavers)
            ]
        )
        for thread in threads:
            thread.start()
        killers = [
            threading.Thread(target=kill_and_start, args=(server, begin + share * plan.seconds))
            for server, share in ((endpoint, 0.4), (app, 0.55))
            if plan.kill
        ]
        for thread in killers:
            thread.start()
        follow(watched, begin, end, plan)
        for thread in threads:
            thread.join()
        for thread in killers:
            thread.join()
        took = time.monotonic() - begin
        ended = {
            name: server.process.poll()
            for name, server in (("app", app), ("endpoint", endpoint))
            if server.process is not None and server.process.poll() is not None
        }
        if ended:
            report("".join(log.read_text()[-3000:] for log in folder.glob("*.log")))
        kept = check_kept(app, folder / "runs" / "pictures", session_tallies)
        return {
            "plan": vars(plan),
            "seconds": took,
            "app": figures(session_tallies, took) | watched["app"].figures(begin),
            "endpoint": figures(client_tallies, took) | watched["endpoint"].figures(begin),
            "leavers": deeds.as_dict(),
            "kept": kept,
            "ended_by_themselves": ended,
            "tracebacks": [text for log in folder.glob("*.log") for text in tracebacks(log.read_text())],
        }
    finally:
        app.stop()
        endpoint.stop()


def tracebacks(log: str) -> list[str]:
    """Each traceback in a log: its first line, what is indented under it, and the error itself."""
    return re.findall(r"^.*Traceback \(most recent call last\):\n(?:[ +|].*\n|\n)*.*", log, re.MULTILINE)


class Watched:
    """A server's memory and its event loop, looked at during a run. Times are seconds since its begin."""

    def __init__(self, server: Server) -> None:
        self.server = server
        self.memory: list[tuple[float, int]] = []
        self.seen: list[tuple[float, Observation]] = []
        self._ask()  # what came before is not of this run

    def look(self, when: float, *, types: bool = False) -> None:
        if (found := self._ask(types=types)) is not None:
            self.seen.append((when, found))
            if types:
                self._ask()  # counting is a pause, but not the app's

    def _ask(self, *, types: bool = False) -> Observation | None:
        """None from a server that was killed."""
        try:
            return observe(self.server.watch, types=types)
        except requests.RequestException:
            return None

    def figures(self, begin: float) -> dict[str, Any]:
        counted = [(when, found) for when, found in self.seen if found.objects]
        return memory_figures(self.memory, self.server.killed_at, begin) | {
            "longest_pause_seconds": max((found.pause for _, found in self.seen), default=None),
            "longest_pause_of_its_own_seconds": max(
                (found.busy_pause for _, found in self.seen), default=None
            ),
            "pauses_seconds": " ".join(f"{when:.0f}:{found.pause:.2f}" for when, found in self.seen),
            "cpu_share": statistics.mean(found.cpu / found.seconds for _, found in self.seen)
            if self.seen
            else None,
            "heap_mb_used_and_free": " ".join(
                f"{when:.0f}:{found.heap['used'] / 1e6:.0f}+{found.heap['free'] / 1e6:.0f}"
                for when, found in self.seen
                if found.heap
            ),
            "objects": {f"{when:.0f}": found.objects for when, found in counted},
            "objects_more": growth(counted[0][1].types, counted[-1][1].types) if len(counted) > 1 else {},
        }


def growth(before: dict[str, int], after: dict[str, int]) -> dict[str, int]:
    """Of which types there are most more."""
    more = {name: count - before.get(name, 0) for name, count in after.items()}
    return dict(sorted(more.items(), key=lambda pair: -abs(pair[1]))[:15])


def follow(watched: dict[str, Watched], begin: float, end: float, plan: LoadPlan) -> None:
    """Look at the servers until the end, and not while the crowd leaves."""
    looked = begin
    counts = [begin + share * plan.seconds for share in (0.3, 0.95)] if plan.count_objects else []
    while (now := time.monotonic()) < end:
        for one in watched.values():
            if (rss := one.server.rss()) is not None:
                one.memory.append((now - begin, rss))
        if now - looked > plan.seconds / 40:
            looked = now
            types = bool(counts) and now >= counts[0]
            counts = counts[1:] if types else counts
            for one in watched.values():
                one.look(now - begin, types=types)
        time.sleep(min(2.0, plan.seconds / 20))


def servers(plan: LoadPlan, folder: Path) -> tuple[Server, Server]:
    """(app, endpoint), not started; both with fewer places than people will come."""
    folder.mkdir(parents=True, exist_ok=True)
    quiet = {"OMP_NUM_THREADS": "1", "XDG_CACHE_HOME": str(folder / "cache")}
    places = [str(max(2, int(count * plan.queue_share))) for count in (plan.sessions, plan.clients)]
    here = ["--device", "cpu"]
    app = ["app.py", *here, "--model", "builtin", "--folder", str(folder / "runs"), "--queue", places[0]]
    endpoint = ["-m", "backend.endpoint", *here, "--log-level", "warning", "--queue", places[1]]
    return (
        Server(app, "/vae", folder / "app.log", quiet),
        Server(endpoint, "/ready", folder / "endpoint.log", quiet),
    )


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


# -- sessions of the app ---------------------------------------------------------------------------------------


def jobs_of(index: int) -> list[ImageJob]:
    return [ImageJob(f"lake number {index}-{k}", seed=1000 * (index + 1) + k) for k in range(JOBS_EACH)]


class Session:
    """One gradio_client and its input picture."""

    def __init__(self, app: Server, picture: Path) -> None:
        self.app = app
        self.picture = picture
        self.client = Client(
            app.url,
            verbose=False,
            download_files=False,
            analytics_enabled=False,
            httpx_kwargs={"timeout": PATIENCE},  # its own 5 s are for a machine that has nothing else to do
        )

    def __enter__(self) -> Session:
        return self

    def __exit__(self, *_: object) -> None:
        self.client.close()

    def img2img(self, job: ImageJob, nonce: str) -> tuple[Image.Image, dict[str, Any], str]:
        """(picture, the recipe inside its file, its address).

        At guidance 1 the negative prompt has no effect on the picture, so it carries the nonce that makes each
        request's recipe its own.
        """
        work = self.client.submit(
            handle_file(str(self.picture)),
            job.prompt,
            seed=job.seed,
            strength=0.5,
            steps=4,
            guidance=1,
            width=SIDE,
            height=SIDE,
            negative_prompt=nonce,
            api_name="/img2img",
        )
        picture, _, _ = self._wait(work)
        address = f"{self.app.url}/gradio_api/file={picture['path']}"
        image, recipe = fetch(address)
        return image, recipe, address

    def _wait(self, work: Any) -> Any:
        """The job's result. gradio_client does not notice that a server was killed, so that is looked for here.

        Raises:
            TimeoutError: none in PATIENCE seconds. AppError, and many others: the job failed.
        """
        begin = time.monotonic()
        while True:
            try:
                return work.result(timeout=1)
            except TimeoutError:
                if time.monotonic() - begin > PATIENCE or self.app.was_killed_since(begin):
                    raise


def fetch(address: str) -> tuple[Image.Image, dict[str, Any]]:
    """A picture of ours from the server, and the recipe inside it."""
    reply = requests.get(address, timeout=60)
    reply.raise_for_status()
    return read_png(io.BytesIO(reply.content))


def read_png(source: Path | io.BytesIO) -> tuple[Image.Image, dict[str, Any]]:
    with Image.open(source) as image:
        image.load()
        return image.convert("RGB"), json.loads(image.info["latent-relay"])["recipe"]


def sketch() -> Image.Image:
    image = Image.new("RGB", (SIDE, SIDE), (150, 200, 235))
    ImageDraw.Draw(image).polygon([(0, SIDE), (SIDE // 2, SIDE // 3), (SIDE, SIDE)], fill=(95, 150, 70))
    return image


def alone(app: Server, picture: Path, sessions: int) -> list[list[ImageJob]]:
    """For each session its own jobs with their pixels, each computed while nothing else runs."""
    with Session(app, picture) as session:
        return [
            [replace(job, pixels=session.img2img(job, "alone")[0].tobytes()) for job in jobs_of(index)]
            for index in range(sessions)
        ]


def run_jobs(first: Session, jobs: Sequence[ImageJob], tally: Tally, end: float) -> None:
    """One session: run a job, check the picture, run the next; after a failure the page is loaded anew."""
    app, picture = first.app, first.picture
    session: Session | None = first
    count = 0
    while time.monotonic() < end and app.up.wait(max(0.0, end - time.monotonic())):
        job = jobs[count % len(jobs)]
        nonce = f"{tally.name} {count}"
        count += 1
        begin = time.monotonic()
        try:
            session = session or Session(app, picture)
            image, recipe, address = session.img2img(job, nonce)
        except Exception as error:  # noqa: BLE001 - counted by what it says, nothing is swallowed
            outcome = outcome_of(error, app, begin)
            tally.note(outcome, f"{type(error).__name__}: {error}" if outcome != "interrupted" else "")
            if outcome != "busy" and session is not None:
                session.client.close()
                session = None
            time.sleep(random.uniform(0.2, 1.0))
            continue
        received = (recipe["prompt"], recipe["seed"], recipe["negative_prompt"])
        if received != (job.prompt, job.seed, nonce) or image.tobytes() != job.pixels:
            tally.note("swapped", f"asked {job.prompt}, {nonce}; got {received}")
            continue
        tally.note("ok")
        tally.waits.append(time.monotonic() - begin)
        tally.finished.append((nonce, address))
        time.sleep(random.uniform(0.0, THINKING))
    if session is not None:
        session.client.close()


def outcome_of(error: Exception, server: Server, begin: float) -> Outcome:
    if server.was_killed_since(begin):
        return "interrupted"
    if isinstance(error, TimeoutError):
        return "lost"
    return "busy" if any(sign in str(error).lower() for sign in BUSY_SIGNS) else "failed"


# -- clients of the endpoint -----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Decoding:
    """One client's own latents, and the bytes they decode to when nobody else is there."""

    latents: bytes
    pixels: bytes = b""


def decodings(endpoint: Server, clients: int) -> list[list[Decoding]]:
    """For each client its own jobs, each computed while nothing else runs."""
    import torch

    table = []
    for client in range(clients):
        seeds = (1000 * (client + 1) + k for k in range(JOBS_EACH))
        jobs = [
            torch.randn(1, 4, LATENT_SIDE, LATENT_SIDE, generator=torch.Generator().manual_seed(seed))
            for seed in seeds
        ]
        raw = [latents.numpy().tobytes() for latents in jobs]
        table.append([Decoding(latents, post(requests, endpoint, latents).content) for latents in raw])
    return table


def post(session: Any, endpoint: Server, latents: bytes) -> requests.Response:
    query = [("shape", size) for size in (1, 4, LATENT_SIDE, LATENT_SIDE)]
    query += [
        ("dtype", "float32"),
        ("output_type", "pt"),
        ("partial_postprocess", "true"),
        ("scaling_factor", 0.18215),
    ]
    return session.post(f"{endpoint.url}/vae/builtin/decode", params=query, data=latents, timeout=PATIENCE)


def decode(endpoint: Server, jobs: Sequence[Decoding], tally: Tally, end: float) -> None:
    """One endpoint client's life."""
    count = 0
    with requests.Session() as session:
        while time.monotonic() < end and endpoint.up.wait(max(0.0, end - time.monotonic())):
            job = jobs[count % len(jobs)]
            count += 1
            begin = time.monotonic()
            try:
                reply = post(session, endpoint, job.latents)
            except requests.RequestException as error:
                interrupted = endpoint.was_killed_since(begin)
                lost: Outcome = "lost" if isinstance(error, requests.Timeout) else "failed"
                tally.note("interrupted" if interrupted else lost, "" if interrupted else str(error))
                time.sleep(0.2)
                continue
            if reply.status_code == 503 and "retry-after" in reply.headers:
                tally.note("busy", reply.json()["error"])
                time.sleep(random.uniform(0.2, 1.0))
            elif reply.status_code != 200:
                tally.note("failed", f"{reply.status_code} {reply.text}")
            elif reply.content != job.pixels:
                tally.note("swapped")
            else:
                tally.note("ok")
                tally.waits.append(time.monotonic() - begin)
                time.sleep(random.uniform(0.0, THINKING))


# -- killing, and what must be left ----------------------------------------------------------------------------


def kill_and_start(server: Server, when: float) -> None:
    """kill -9 at that moment, then start it again on its port."""
    time.sleep(max(0.0, when - time.monotonic()))
    server.kill()
    server.start()


def check_kept(app: Server, runs: Path, tallies: Sequence[Tally]) -> dict[str, int]:
    """Of everything that was reported finished: is it on the disk, and can it be downloaded again?

    The app has been asked for the copy that the client was given and for the one in the history.
    """
    on_disk: dict[str, Path] = {}
    for picture in runs.glob("*/latent-relay-*.png"):
        with contextlib.suppress(
            OSError, SyntaxError, KeyError, ValueError
        ):  # cut off by a kill, and never reported
            on_disk[read_png(picture)[1]["negative_prompt"]] = picture
    finished = [found for tally in tallies for found in tally.finished]
    downloadable = 0
    for nonce, address in finished:
        addresses = [address, f"{app.url}/gradio_api/file={on_disk.get(nonce, 'nothing')}"]
        try:
            downloadable += all(fetch(one)[1]["negative_prompt"] == nonce for one in addresses)
        except (requests.RequestException, OSError, KeyError, ValueError):
            continue
    return {
        "reported_finished": len(finished),
        "on_disk": sum(nonce in on_disk for nonce, _ in finished),
        "downloadable": downloadable,
    }


# -- figures ---------------------------------------------------------------------------------------------------


def figures(tallies: Sequence[Tally], seconds: float) -> dict[str, Any]:
    """Counts, waits and fairness of one crowd."""
    outcomes: Counter[str] = Counter(dict.fromkeys(OUTCOMES, 0))
    messages: Counter[str] = Counter()
    for tally in tallies:
        outcomes += Counter()  # keeps the zeros
        for name, count in tally.outcomes.items():
            outcomes[name] += count
        messages += tally.messages
    waits = sorted(wait for tally in tallies for wait in tally.waits)
    served = [tally.outcomes["ok"] for tally in tallies]
    return {
        **{name: outcomes[name] for name in OUTCOMES},
        "per_second": outcomes["ok"] / seconds,
        "served_least": min(served),
        "served_median": statistics.median(served),
        "served_most": max(served),
        "wait_seconds": {f"p{share}": percentile(waits, share) for share in (50, 90, 99, 100)},
        "messages": dict(messages.most_common(5)),
    }


def percentile(values: Sequence[float], share: int) -> float | None:
    """Of sorted values; None where there are none."""
    return values[min(len(values) - 1, len(values) * share // 100)] if values else None


def memory_figures(
    samples: Sequence[tuple[float, int]], killed: Sequence[float], begin: float
) -> dict[str, Any]:
    """Resident memory and its slope, by least squares over the last two thirds of the longest life in the run."""
    born = max((moment - begin for moment in killed), default=0.0)
    life = [(when, rss) for when, rss in samples if when >= born]
    settled = life[len(life) // 3 :]
    slope = None
    if len(settled) >= 10:
        fit = statistics.linear_regression(
            [when / 60 for when, _ in settled], [rss / 1e6 for _, rss in settled]
        )
        slope = fit.slope
    return {
        "rss_mb": {
            "first": samples[0][1] / 1e6 if samples else None,
            "last": samples[-1][1] / 1e6 if samples else None,
            "most": max((rss for _, rss in samples), default=0) / 1e6 or None,
        },
        "slope_mb_per_minute": slope,
        "slope_over_seconds": settled[-1][0] - settled[0][0] if settled else 0.0,
        "rss_mb_over_seconds": " ".join(
            f"{when:.0f}:{rss / 1e6:.0f}" for when, rss in samples[:: max(1, len(samples) // 40)]
        ),
    }


def sound(result: dict[str, Any]) -> bool:
    """Nothing failed, was swapped or lost, everybody got something, what was finished is still there, and both live."""
    crowds = (result["app"], result["endpoint"])
    kept = result["kept"]
    return (
        all(crowd[name] == 0 for crowd in crowds for name in WRONG)
        and not any(counts.get(name) for counts in result["leavers"]["outcomes"].values() for name in WRONG)
        and all(crowd["served_least"] > 0 for crowd in crowds)
        and not result["ended_by_themselves"]
        and kept["reported_finished"] == kept["on_disk"] == kept["downloadable"] > 0
    )


def table(result: dict[str, Any]) -> str:
    """The figures as a person reads them."""
    rows = [*OUTCOMES, "per_second", "served_least", "served_median", "served_most", "slope_mb_per_minute"]
    lines = [f"{'':22}{'app':>12}{'endpoint':>12}"]
    for name in rows:
        lines.append(f"{name:22}" + "".join(_cell(result[side][name]) for side in ("app", "endpoint")))
    for name in ("p50", "p90", "p99", "p100"):
        lines.append(
            f"{'wait ' + name + ' (s)':22}"
            + "".join(_cell(result[side]["wait_seconds"][name]) for side in ("app", "endpoint"))
        )
    for name in ("first", "last", "most"):
        lines.append(
            f"{'memory ' + name + ' (MB)':22}"
            + "".join(_cell(result[side]["rss_mb"][name]) for side in ("app", "endpoint"))
        )
    for name in ("longest_pause_seconds", "longest_pause_of_its_own_seconds"):
        lines.append(
            f"{name.removesuffix('_seconds')[:22].replace('_', ' '):22}"
            + "".join(_cell(result[side][name]) for side in ("app", "endpoint"))
        )
    for deed, counts in result["leavers"]["outcomes"].items():
        lines.append(f"{deed:26}" + ", ".join(f"{count} {name}" for name, count in counts.items()))
    kept = result["kept"]
    lines.append(
        f"of {kept['reported_finished']} pictures reported finished {kept['on_disk']} are on the disk, "
        f"{kept['downloadable']} downloadable"
    )
    return "\n".join(lines)


def _cell(value: float | int | None) -> str:
    return f"{'–' if value is None else value if isinstance(value, int) else format(value, '.2f'):>12}"


if __name__ == "__main__":
    main()
