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
from types import MappingProxyType
from typing import Any

from accelerate.utils import broadcast_object_list
from trl.data_utils import prepare_multimodal_messages

from pipeline.errors import UserError
from pipeline.system.vllm_server import end_of, open_url
from stages.processes.work import Work
from stages.rollouts.prefetch import Lookahead, Rows
from stages.rollouts.requests import DataUrls, cache_counts, check_prompt, group_runs, served_messages
from stages.rollouts.vllm_server import MODEL, running
from stages.rollouts.weight_sync import write_weights

log = logging.getLogger(__name__)

AT_ONCE = 64
"""Requests a process has in flight; each brings all completions of one prompt."""
TIMEOUT_SECONDS = 3600
MAX_DRIFT = 0.2
"""Mean difference of logprobs, in nats per token, above which the server does not compute the trainer's weights as the trainer
does. Rounding to bfloat16 makes differences of some hundredths."""


@contextlib.contextmanager
def served(trainer: Any, work: Work, parent: Path) -> Iterator[None]:
    """With `rollouts: vllm`, a server of the policy within the block, which the trainer samples from; else nothing.

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
        if trainer.accelerator.is_main_process:
            # Ctrl-C and a batch system's end of time come as SIGTERM, at which Python would end without the clean-up below.
            before = signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
            until_the_end.callback(signal.signal, signal.SIGTERM, before)
            folder = until_the_end.enter_context(_scratch(work, parent))
            _copy_for_server(parent, trainer.processing_class, folder / "start")
            log.info(f"  {work.name}: starting a vLLM server for its rollouts")
            address = [until_the_end.enter_context(running(work, folder / "start"))]
            trainer.weights_folder = folder / "weights"
        broadcast_object_list(address)
        trainer.server = address[0]
        trainer.use_vllm = True  # So that TRL scores and corrects the rollouts as those of its own vLLM modes.
        trainer.requests = ThreadPoolExecutor(AT_ONCE)
        # Without waiting: what a stage that ends early has in flight ends with the server.
        until_the_end.callback(trainer.requests.shutdown, wait=False, cancel_futures=True)
        if work.stage.rollouts_ahead:
            per_rollout = trainer.args.steps_per_generation * trainer.num_iterations
            trainer.lookahead = Lookahead(per_rollout, trainer.args.gradient_accumulation_steps)
        try:
            yield
        finally:
            trainer.server, trainer.use_vllm, trainer.lookahead, trainer._ahead = None, False, None, None


@contextlib.contextmanager
def _scratch(work: Work, parent: Path) -> Iterator[Path]:
    """A folder for the block, in memory where it holds the weights twice over, else in the stage's folder.

    Its name follows from the stage, so that what a killed attempt left in it goes when the stage goes on.
    """
    memory = Path("/dev/shm")
    size = sum(file.stat().st_size for file in parent.glob("*.safetensors"))
    name = f"clgrpo-{hashlib.sha256(str(work.folder.resolve()).encode()).hexdigest()[:16]}"
    roomy = memory.is_dir() and shutil.disk_usage(memory).free > 2 * size
    for folder in (memory / name, work.folder / "rollouts"):
        shutil.rmtree(folder, ignore_errors=True)
    folder = memory / name if roomy else work.folder / "rollouts"
    folder.mkdir()
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _copy_for_server(parent: Path, processor: Any, folder: Path) -> None:
    """The parent with the trainer's processor, so that both read a prompt alike; weights are links."""
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


class ServedRollouts:
    """What of trl.GRPOTrainer changes when a server samples; without one (`server` is None) nothing does."""

    server: str | None = None
    """Its address."""
    requests: ThreadPoolExecutor
    weights_folder: Path
    """Where weights are written for the server; on the main process."""
    lookahead: Lookahead | None = None
    """With `rollouts_ahead`."""
    resample_round = 0
    """Of dynamic sampling; 0 for a step's own prompts."""
    _served_step = -1
    _prompts: Sequence[Any] = ()
    _next_rows: Rows | None = None
    _ahead: Asked | None = None
    _staleness = 0
    """Optimizer steps since the weights that sampled the present rollout."""
    _cache_counts: Mapping[str, tuple[float, float]] = MappingProxyType({})

    def get_batch_samples(self: Any, epoch_iterator: Any, num_batches: int, device: Any) -> Any:
        """As transformers'; with `rollouts_ahead` the rows of the next rollout are read besides."""
        if self.lookahead is not None:
            epoch_iterator = iter(self.lookahead.take(epoch_iterator, num_batches))
        return super().get_batch_samples(epoch_iterator, num_batches, device)  # type: ignore[misc]

    def _tokenize_prompts(self: Any, prompts: list[Any]) -> Any:
        self._prompts = prompts
        return super()._tokenize_prompts(prompts)  # type: ignore[misc]

    def _generate_single_turn(
        self: Any, prompt_ids: Any, images: Any, multimodal_fields: Any, num_generations: int, **how: Any
    ) -> Any:
        """(token ids, logprobs) per prompt, asked now or ahead; and the next rollout is asked, with `rollouts_ahead`."""
        if self.server is None:
            return super()._generate_single_turn(prompt_ids, images, multimodal_fields, num_generations, **how)  # type: ignore[misc]
        asked = self._ahead or self._ask(self._prompts, num_generations, self.resample_round)
        began = time.monotonic()
        completions, logprobs = [], []
        for (start, _), reply in zip(asked.runs, asked.replies, strict=True):
            check_prompt(reply["prompt_token_ids"], prompt_ids[start])
            for choice in sorted(reply["choices"], key=lambda choice: choice["index"]):
                completions.append(choice["token_ids"])
                logprobs.append([token["logprob"] for token in choice["logprobs"]["content"]])
        self._metrics["train"]["sampling/wait_seconds"].append(time.monotonic() - began)
        self._staleness = self.state.global_step - asked.step
        self._metrics["train"]["sampling/staleness"].append(self._staleness)
        # Until no process has a request in flight: all are counted, and the weights may change.
        self.accelerator.wait_for_everyone()
        if self.accelerator.is_main_process:
            self._log_cache_hits()
        self._ahead = None
        if self._next_rows is not None:
            self._ahead = self._ask(prompts_of(self._next_rows), num_generations, "ahead")
        return completions, logprobs

    def _ask(self: Any, prompts: Sequence[Any], num_generations: int, asking: int | str) -> Asked:
        """Send a request for each run of equal prompts in this process's slice, to a server with the present weights."""
        if self._served_step != self.state.global_step:
            self._sync()
        first = self.accelerator.process_index * len(prompts)
        runs = group_runs(first, len(prompts), num_generations)
        # With the seeds of this moment; the threads that send them encode the pictures, while this one goes on.
        requests = [
            {
                "model": MODEL,
                "n": stop - start,
                "seed": self._rollout_seed(asking, (first + start) // num_generations)
                + (first + start) % num_generations,
                "max_tokens": self.generation_config.max_new_tokens,
                "min_tokens": self.generation_config.min_new_tokens or 0,  # A preflight's trial asks for whole lengths.
                "temperature": self.temperature,
                "top_p": self.top_p,
                "top_k": self.top_k or -1,
                "min_p": self.min_p or 0.0,
                "repetition_penalty": self.repetition_penalty,
                "stop_token_ids": self.eos_token_ids,
                # A sampled image token would mismatch the image features, so TRL suppresses it in its own generate too.
                "logit_bias": {str(self.accelerator.unwrap_model(self.model).config.image_token_id): -100},
                "chat_template_kwargs": self.chat_template_kwargs,
                "skip_special_tokens": False,
                "logprobs": True,
                "return_token_ids": True,
            }
            for start, stop in runs
        ]
        data_url = DataUrls()

        def send(run: tuple[int, int], request: dict[str, Any]) -> Any:
            return self._post(
                "/v1/chat/completions", {**request, "messages": served_messages(prompts[run[0]], data_url)}
            )

        replies = self.requests.map(send, runs, requests)
        return Asked(runs, replies, self.state.global_step)

    def _generate_and_score_completions(self: Any, inputs: list[dict[str, Any]]) -> dict[str, Any]:
        if self.lookahead is not None:
            self._next_rows = self.lookahead.after(inputs, self.state.max_steps - self.state.global_step)
        output: dict[str, Any] = super()._generate_and_score_completions(inputs)  # type: ignore[misc]
        drift = self._metrics["train"].get("sampling/sampling_logp_difference/mean", [0.0])[-1]
        # What older weights sampled differs by what was learned since, which is no fault; the alarm `drift` judges it.
        if self.server is not None and drift > MAX_DRIFT and not self._staleness:
            raise UserError(
                f"step {self.state.global_step}: the rollouts' logprobs are {drift:.2f} nats per token away from the trainer's "
                f"(limit {MAX_DRIFT}): vLLM does not compute this model as transformers does; use rollouts: transformers"
            )
        return output

    def _rollout_seed(self: Any, asking: int | str, group: int) -> int:
        """A seed for one group's request: the same whenever it is asked again and for any number of processes."""
        place = f"{rollout_place(self)}/{asking}/{group}"
        return int.from_bytes(hashlib.sha256(place.encode()).digest()[:6], "big")

    def _sync(self: Any) -> None:
        """Give the server the trainer's weights; nothing that it computed with others stays in its caches."""
        began = time.monotonic()
        size = write_weights(self, self.work, self.weights_folder if self.accelerator.is_main_process else None)
        if self.accelerator.is_main_process:
            self._post("/collective_rpc", {"method": "load_policy", "args": [str(self.weights_folder)]})
            # Prompts' keys and values; then features of images, which the reload drops in the workers but not in the scheduler.
            done = self._post("/reset_prefix_cache")
            assert done["success"], "requests were in flight while the weights changed"
            self._post("/reset_encoder_cache")
        self.accelerator.wait_for_everyone()
        self._metrics["train"]["sampling/sync_seconds"].append(time.monotonic() - began)
        self._metrics["train"]["sampling/sync_bytes"].append(size)
        self._served_step = self.state.global_step

    def _log_cache_hits(self: Any) -> None:
        """Log what share of prompts' tokens and of pictures the server had computed already, since this was last called."""
        with open_url(urllib.request.Request(f"{self.server}/metrics"), timeout=TIMEOUT_SECONDS) as reply:
            counts = cache_counts(reply.read().decode())
        for cache, (hits, queries) in counts.items():
            hits_before, queries_before = self._cache_counts.get(cache, (0.0, 0.0))
            if queries > queries_before:
                ratio = (hits - hits_before) / (queries - queries_before)
                self._metrics["train"][f"sampling/{cache}_cache_hit_ratio"].append(ratio)
        self._cache_counts = counts

    def _post(self: Any, path: str, body: dict[str, Any] | None = None) -> Any:
        """What the server answers.

        Raises:
            UserError: when it refuses, or is gone; with the end of its log.
        """
        log = self.work.folder / "logs" / "rollout-server.log"
        request = urllib.request.Request(
            self.server + path, json.dumps(body or {}).encode(), {"Content-Type": "application/json"}
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


def rollout_place(trainer: Any) -> str:
    """Which rollout of the run this is, as seeds are made from it: a stage that goes on from a checkpoint draws alike."""
    of_its_step = (
        trainer._step % trainer.args.gradient_accumulation_steps
    )  # One optimizer step may take several rollouts.
    return f"{trainer.args.seed}/{trainer.state.global_step}/{of_its_step}"


def prompts_of(rows: Rows) -> list[Any]:
    """The prompts that TRL makes of rows with an image each."""
    return [prepare_multimodal_messages(row["prompt"], images=[row["image"]]) for row in rows]
