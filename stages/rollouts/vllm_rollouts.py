"""Rollouts by a vLLM server of the policy, which a GRPO stage starts, keeps at the trainer's weights, and ends.

The server gets messages with images, as any client sends them, and expands the image tokens itself; what it made of a prompt
must be the trainer's own token ids, else the stage stops. Each completion comes back with the logprobs it was sampled at, which
TRL compares with the trainer's (`sampling/sampling_logp_difference`) and corrects the loss by, as in its own vLLM modes.

With `rollouts_ahead` the order is: collect a rollout, give the server the weights, ask for the next rollout, train on this one.
"""

from __future__ import annotations

import contextlib
import hashlib
import http.client
import json
import logging
import os
import shutil
import signal
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from accelerate.utils import broadcast_object_list

from pipeline.errors import UserError
from pipeline.system.locks import acquire, exclusive, is_held
from pipeline.system.vllm_server import end_of, open_url
from stages.processes.work import Work
from stages.rollouts.pending import most_pictures, prompts_of, rollout_place
from stages.rollouts.prefetch import Lookahead, Rows
from stages.rollouts.requests import DataUrls, cache_counts, check_prompt, group_runs, served_messages
from stages.rollouts.vllm_server import MODEL, running
from stages.rollouts.weight_sync import write_weights

log = logging.getLogger(__name__)

MEMORY = Path("/dev/shm")
LOCK = "in_use"
"""In a server's folder in memory: locked while its stage lives."""
AT_ONCE = 64
"""Requests a process has in flight; each brings all completions of one prompt."""
TIMEOUT_SECONDS = 3600
MAX_DRIFT = 0.2
"""Mean difference of logprobs, in nats per token, above which the server does not compute the trainer's weights as the trainer
does. Rounding to bfloat16 makes differences of some hundredths."""


@contextlib.contextmanager
def policy_server(trainer: Any, work: Work, parent: Path) -> Iterator[None]:
    """Start a server of the policy, with `rollouts: vllm`, which the trainer samples from within the block; else do nothing.

    Args:
        trainer: before training.
        work: the stage.
        parent: the checkpoint the stage started from.

    Raises:
        UserError: when the server does not start.
    """
    if work.stage.rollouts != "vllm":
        yield
        return
    with contextlib.ExitStack() as until_the_end:
        address: list[str | None] = [None]
        weights_folder: Path | None = None
        if trainer.accelerator.is_main_process:
            # Ctrl-C and a batch system's end of time come as SIGTERM, at which Python would end without the clean-up below.
            before = signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
            until_the_end.callback(signal.signal, signal.SIGTERM, before)
            folder = until_the_end.enter_context(_scratch(work, parent))
            _copy_for_server(parent, trainer.processing_class, folder / "start")
            log.info(f"  {work.name}: starting a vLLM server for its rollouts")
            images = most_pictures(trainer.train_dataset)
            address = [until_the_end.enter_context(running(work, folder / "start", images))]
            weights_folder = folder / "weights"
        broadcast_object_list(address)
        lookahead = None
        if work.stage.rollouts_ahead:
            per_rollout = trainer.args.steps_per_generation * trainer.num_iterations
            lookahead = Lookahead(per_rollout, trainer.args.gradient_accumulation_steps)
        assert address[0] is not None
        trainer.server = PolicyServer(trainer, work, address[0], weights_folder, lookahead)
        # Without waiting: what a stage that ends early has in flight ends with the server.
        until_the_end.callback(trainer.server.requests.shutdown, wait=False, cancel_futures=True)
        # So that TRL scores and corrects the rollouts as those of its own vLLM modes.
        trainer.use_vllm, trainer.vllm_generation, trainer._last_loaded_step = True, trainer.server, -1
        try:
            yield
        finally:
            trainer.server, trainer.use_vllm = None, False


@contextlib.contextmanager
def _scratch(work: Work, parent: Path) -> Iterator[Path]:
    """Make a folder for the block, in memory where it holds the weights twice over, else in the stage's folder.

    Its name follows from the stage, so that what a killed attempt left in it goes when the stage goes on.
    """
    size = sum(file.stat().st_size for file in parent.glob("*.safetensors"))
    name = f"clgrpo-{hashlib.sha256(str(work.folder.resolve()).encode()).hexdigest()[:16]}"
    for folder in (MEMORY / name, work.folder / "rollouts"):
        shutil.rmtree(folder, ignore_errors=True)
    held = _lock_in_memory(name, 2 * size)
    folder = work.folder / "rollouts" if held is None else MEMORY / name
    folder.mkdir(exist_ok=True)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        if held is not None:
            held.close()


def _lock_in_memory(name: str, size: int) -> IO[str] | None:
    """Make a folder in memory and lock it, once what killed stages left there is gone; None where it has no room.

    The lock goes with its process, so that a folder in use can be told from one that was left.
    """
    if not MEMORY.is_dir():
        return None
    # None is to be deleted between its making and its locking.
    with exclusive(MEMORY / f"clgrpo-{os.getuid()}"):
        for lock in MEMORY.glob(f"clgrpo-*/{LOCK}"):
            # One that ends meanwhile deletes its own.
            with contextlib.suppress(OSError):
                if lock.stat().st_uid == os.getuid() and not is_held(lock):
                    shutil.rmtree(lock.parent, ignore_errors=True)
        return acquire(MEMORY / name / LOCK) if shutil.disk_usage(MEMORY).free > size else None


def _copy_for_server(parent: Path, processor: Any, folder: Path) -> None:
    """Copy the parent with the trainer's processor, so that both read a prompt alike; weights are links."""
    folder.mkdir()
    for file in parent.iterdir():
        if file.suffix == ".safetensors":
            (folder / file.name).symlink_to(file.resolve())
        elif file.is_file():
            shutil.copyfile(file, folder / file.name)
    processor.save_pretrained(folder)


@dataclass(frozen=True)
class Asked:
    """A rollout that the server samples: this process's slice of it."""

    runs: list[tuple[int, int]]
    """(start, stop) of the samples of each request."""
    replies: Iterator[Any]
    """One per request; waits for it, and raises what it raised."""
    step: int
    """Optimizer steps behind the weights that sample."""


class PolicyServer:
    """A server that samples for a trainer, with its weights.

    Args:
        trainer: a trl.GRPOTrainer.
        work: the stage.
        address: the server's.
        weights_folder: where weights are written for it; on the main process.
        lookahead: with `rollouts_ahead`.
    """

    def __init__(
        self, trainer: Any, work: Work, address: str, weights_folder: Path | None, lookahead: Lookahead | None = None
    ) -> None:
        self.trainer, self.work, self.address = trainer, work, address
        self.weights_folder, self.lookahead = weights_folder, lookahead
        self.requests = ThreadPoolExecutor(AT_ONCE)
        self.attempt = 0
        """Round of dynamic sampling; 0 for a step's own prompts."""
        self.staleness = 0
        """Optimizer steps since the weights that sampled the present rollout."""
        self._next_rows: Rows | None = None
        self._served_step = -1
        self._ahead: Asked | None = None
        self._cache_counts: Mapping[str, tuple[float, float]] = {}

    def read_rows(self, epoch: Iterator[Rows], count: int) -> Iterator[Rows]:
        """Return the next micro-batches of an epoch; with `rollouts_ahead` those of the next rollout are read besides."""
        return epoch if self.lookahead is None else iter(self.lookahead.take(epoch, count))

    def expect(self, rows: Rows) -> None:
        """Note which rollout follows that of these rows, to ask for it ahead."""
        if self.lookahead is not None:
            steps_left = self.trainer.state.max_steps - self.trainer.state.global_step
            self._next_rows = self.lookahead.after(rows, steps_left)

    def complete(
        self, prompts: Sequence[Any], prompt_ids: Sequence[Sequence[int]], num_generations: int
    ) -> tuple[list[list[int]], list[list[float]]]:
        """Collect the rollout of these prompts, asked now or ahead; then ask the next one, with `rollouts_ahead`.

        Args:
            prompts: messages of this process's rows, with the pictures in them.
            prompt_ids: the trainer's own tokens of each row.
            num_generations: rows of a group.

        Returns:
            (token ids, logprobs) of each row.

        Raises:
            UserError: when the server reads a prompt otherwise, refuses, or is gone.
        """
        asked = self._ahead or self._ask(prompts, num_generations, self.attempt)
        began = time.monotonic()
        completions, logprobs = [], []
        for (start, _), reply in zip(asked.runs, asked.replies, strict=True):
            check_prompt(reply["prompt_token_ids"], prompt_ids[start])
            for choice in sorted(reply["choices"], key=lambda choice: choice["index"]):
                completions.append(choice["token_ids"])
                logprobs.append([token["logprob"] for token in choice["logprobs"]["content"]])
        metrics, step = self.trainer._metrics["train"], self.trainer.state.global_step
        metrics["sampling/wait_seconds"].append(time.monotonic() - began)
        self.staleness = step - asked.step
        metrics["sampling/staleness"].append(self.staleness)
        # Until no process has a request in flight: all are counted, and the weights may change.
        self.trainer.accelerator.wait_for_everyone()
        if self.trainer.accelerator.is_main_process:
            self._log_cache_hits()
        self._ahead = None
        if self._next_rows is not None:
            self._ahead = self._ask(prompts_of(self._next_rows), num_generations, "ahead")
        return completions, logprobs

    def _ask(self, prompts: Sequence[Any], num_generations: int, asking: int | str) -> Asked:
        """Send a request for each run of equal prompts in this process's slice, to a server with the present weights."""
        trainer = self.trainer
        if self._served_step != trainer.state.global_step:
            self.sync()
        first = trainer.accelerator.process_index * len(prompts)
        runs = group_runs(first, len(prompts), num_generations)
        # With the seeds of this moment; the threads that send them encode the pictures, while this one goes on.
        requests = [
            {
                "model": MODEL,
                "n": stop - start,
                "seed": self._rollout_seed(asking, (first + start) // num_generations)
                + (first + start) % num_generations,
                "max_tokens": trainer.generation_config.max_new_tokens,
                "min_tokens": trainer.generation_config.min_new_tokens
                # A preflight's trial asks for whole lengths.
                or 0,
                "temperature": trainer.temperature,
                "top_p": trainer.top_p,
                "top_k": trainer.top_k or -1,
                "min_p": trainer.min_p or 0.0,
                "repetition_penalty": trainer.repetition_penalty,
                "stop_token_ids": trainer.eos_token_ids,
                # A sampled image token would mismatch the image features, so TRL suppresses it in its own generate too.
                "logit_bias": {str(trainer.accelerator.unwrap_model(trainer.model).config.image_token_id): -100},
                "chat_template_kwargs": trainer.chat_template_kwargs,
                "skip_special_tokens": False,
                "logprobs": True,
                "return_token_ids": True,
            }
            for start, stop in runs
        ]
        data_url = DataUrls()

        def send(run: tuple[int, int], request: dict[str, Any]) -> Any:
            return self.post(
                "/v1/chat/completions", {**request, "messages": served_messages(prompts[run[0]], data_url)}
            )

        replies = self.requests.map(send, runs, requests)
        return Asked(runs, replies, trainer.state.global_step)

    def check_drift(self) -> None:
        """Check that the server computes the trainer's weights as the trainer does, by the logprobs of the last rollout.

        Raises:
            UserError: when they are further apart than `MAX_DRIFT`. What older weights sampled differs by what was learned since,
                which is no fault; the alarm `drift` judges it.
        """
        drift = self.trainer._metrics["train"].get("sampling/sampling_logp_difference/mean", [0.0])[-1]
        if drift > MAX_DRIFT and not self.staleness:
            raise UserError(
                f"step {self.trainer.state.global_step}: the rollouts' logprobs are {drift:.2f} nats per token away from the "
                f"trainer's (limit {MAX_DRIFT}): vLLM does not compute this model as transformers does; "
                "use rollouts: transformers"
            )

    def _rollout_seed(self, asking: int | str, group: int) -> int:
        """Return a seed for one group's request: the same whenever it is asked again and for any number of processes."""
        place = f"{rollout_place(self.trainer)}/{asking}/{group}"
        return int.from_bytes(hashlib.sha256(place.encode()).digest()[:6], "big")

    def sync_weights(self) -> None:
        """Take the trainer's weights, unless a rollout is still being sampled: then the next request brings them.

        TRL calls it before it samples at a new step, as it calls its own vLLM's.
        """
        if self._ahead is None and self._served_step != self.trainer.state.global_step:
            self.sync()

    def sync(self) -> None:
        """Give the server the trainer's weights; nothing it computed with others stays in its caches. Called on all ranks."""
        began = time.monotonic()
        size = write_weights(self.trainer, self.work, self.weights_folder)
        if self.trainer.accelerator.is_main_process:
            self.post("/collective_rpc", {"method": "load_policy", "args": [str(self.weights_folder)]})
            # Prompts' keys and values; then features of images, which the reload drops in the workers but not in the scheduler.
            done = self.post("/reset_prefix_cache")
            assert done["success"], "requests were in flight while the weights changed"
            self.post("/reset_encoder_cache")
        self.trainer.accelerator.wait_for_everyone()
        self.trainer._metrics["train"]["sampling/sync_seconds"].append(time.monotonic() - began)
        self.trainer._metrics["train"]["sampling/sync_bytes"].append(size)
        self._served_step = self.trainer.state.global_step

    def _log_cache_hits(self) -> None:
        """Log what share of prompts' tokens and of pictures the server had computed already, since this was last called."""
        with open_url(urllib.request.Request(f"{self.address}/metrics"), timeout=TIMEOUT_SECONDS) as reply:
            counts = cache_counts(reply.read().decode())
        for cache, (hits, queries) in counts.items():
            hits_before, queries_before = self._cache_counts.get(cache, (0.0, 0.0))
            if queries > queries_before:
                ratio = (hits - hits_before) / (queries - queries_before)
                self.trainer._metrics["train"][f"sampling/{cache}_cache_hit_ratio"].append(ratio)
        self._cache_counts = counts

    def post(self, path: str, body: dict[str, Any] | None = None) -> Any:
        """Return post to the server and return what it answers.

        Raises:
            UserError: when it refuses, or is gone; with the end of its log.
        """
        log = self.work.folder / "logs" / "rollout-server.log"
        request = urllib.request.Request(
            self.address + path, json.dumps(body or {}).encode(), {"Content-Type": "application/json"}
        )
        try:
            with open_url(request, timeout=TIMEOUT_SECONDS) as reply:
                text = reply.read()
        except urllib.error.HTTPError as error:
            said = error.read().decode(errors="replace")[:500]
            raise UserError(f"the rollout server answered {path} with {error.code}: {said}; {end_of(log)}") from error
        except (OSError, http.client.HTTPException) as error:
            raise UserError(f"the rollout server does not answer {path} ({error}); {end_of(log)}") from error
        return json.loads(text) if text else None
