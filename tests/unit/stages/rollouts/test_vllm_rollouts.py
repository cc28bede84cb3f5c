"""What is sent to a rollout server, what of its answers is refused, and the weights it is given."""

from __future__ import annotations

import base64
import io
import itertools
import threading
import time
from collections import defaultdict
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from PIL import Image

from pipeline.config.loader import load
from pipeline.data.conversations import user_turn
from pipeline.errors import UserError
from pipeline.files import write_json
from pipeline.system.locks import acquire
from stages.rollouts import vllm_rollouts, vllm_server
from stages.rollouts.dynamic_sampling import further_rows
from stages.rollouts.pending import most_pictures, prompts_of
from stages.rollouts.prefetch import Lookahead
from stages.rollouts.requests import DataUrls, cache_counts, check_prompt, group_runs, served_messages
from stages.rollouts.vllm_rollouts import MAX_DRIFT, PolicyServer
from stages.rollouts.weight_sync import served_weights
from stages.training.setup import image_dataset


@pytest.mark.parametrize(
    ("first", "length", "runs"),
    [
        (0, 8, [(0, 4), (4, 8)]),
        (8, 4, [(0, 4)]),
        # The first group begins on the process before.
        (6, 6, [(0, 2), (2, 6)]),
        (2, 1, [(0, 1)]),
    ],
)
def test_a_request_is_sent_for_each_group_or_part_of_one(first, length, runs):
    assert group_runs(first, length, num_generations=4) == runs


@pytest.mark.parametrize("mode", ["RGB", "L", "RGBA"])
def test_images_travel_in_the_message_and_lose_nothing(mode):
    image = Image.radial_gradient("L").convert(mode)
    prompt = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": [{"type": "image", "image": image}, {"type": "text", "text": "What?"}]},
    ]
    system, user = served_messages(prompt, DataUrls())
    assert system == prompt[0]
    assert user["content"][1] == {"type": "text", "text": "What?"}
    url = user["content"][0]["image_url"]["url"]
    sent = Image.open(io.BytesIO(base64.b64decode(url.partition(",")[2])))
    assert sent.mode == mode
    assert sent.tobytes() == image.tobytes()
    assert prompt[1]["content"][0]["image"] is image


class _Picture:
    """One that takes a while to encode, and notes where it was."""

    mode = "RGB"

    def __init__(self, fails: bool = False) -> None:
        self.fails, self.threads = fails, []

    def save(self, file: Any, kind: str) -> None:
        self.threads.append(threading.current_thread())
        time.sleep(0.05)
        if self.fails:
            raise OSError("truncated")
        file.write(b"pixels")


def test_a_picture_is_encoded_once_however_many_requests_show_it():
    picture, other, data_url = _Picture(), _Picture(), DataUrls()
    with ThreadPoolExecutor(4) as threads:
        urls = list(threads.map(data_url, [picture, picture, other, picture]))
    assert len(set(urls)) == 1
    assert (len(picture.threads), len(other.threads)) == (1, 1)


def test_a_picture_that_cannot_be_encoded_fails_each_of_its_requests():
    picture, data_url = _Picture(fails=True), DataUrls()
    for _ in range(2):
        with pytest.raises(OSError, match="truncated"):
            data_url(picture)
    assert len(picture.threads) == 1


@pytest.mark.parametrize(
    ("served", "words"),
    [
        ([1, 9, 3], "token 1 is 9, not 2"),
        ([1, 2], "as 2 tokens, the trainer as 3"),
        ([1, 2, 2, 3], "token 2 is 2, not 3"),
    ],
)
def test_a_prompt_that_the_server_reads_otherwise_is_refused(served, words):
    with pytest.raises(UserError, match=words):
        check_prompt(served, [1, 2, 3])


def test_a_prompt_that_both_read_alike_is_taken():
    check_prompt([1, 2, 3], torch.tensor([1, 2, 3]).tolist())


def test_further_prompts_are_the_same_each_time_and_others_in_each_round():
    drawn = further_rows("0/7/0/1", 5, rows=20)
    assert drawn == further_rows("0/7/0/1", 5, rows=20) != further_rows("0/7/0/2", 5, rows=20)
    assert len(set(drawn)) == 5
    assert sorted(further_rows("0/7/0/1", 6, rows=3)) == [0, 0, 1, 1, 2, 2]


@pytest.mark.parametrize(
    ("visible", "kept", "processes", "expected"),
    [
        (None, 1, None, ("3",)),
        (None, 0, None, ("0", "1", "2", "3")),
        (None, 0, 2, ("0", "1")),
        ("4,5,6,7", 2, None, ("6", "7")),
    ],
)
def test_the_server_has_the_last_gpus_or_shares_the_trainers(visible, kept, processes, expected, monkeypatch):
    monkeypatch.setattr("pipeline.system.hardware.visible_gpus", lambda: 4)
    monkeypatch.setattr("pipeline.config.derived.visible_gpus", lambda: 4)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if visible:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    words = [f"launch.rollout_gpus={kept}", *([f"launch.num_processes={processes}"] if processes else [])]
    assert vllm_server.server_gpus(load("demo", words)) == expected


def test_a_users_flags_win_over_ours(tmp_path):
    config = load("demo", ["launch.rollout_flags={dtype: bfloat16, max-model-len: 512}"])
    flags = vllm_server.flags(config, tmp_path, (), 8000, images=3)
    assert (flags["dtype"], flags["max-model-len"], flags["port"]) == ("bfloat16", 512, 8000)
    assert flags["limit-mm-per-prompt"] == {"image": 3}
    assert "model-impl" not in flags


def test_a_server_of_a_composed_model_computes_it_by_transformers_unless_a_user_says_otherwise(tmp_path):
    write_json(tmp_path / "config.json", {"model_type": "fast_vlm"})
    assert vllm_server.flags(load("demo"), tmp_path, (), 8000)["model-impl"] == "transformers"
    config = load("demo", ["launch.rollout_flags={model-impl: vllm}"])
    assert vllm_server.flags(config, tmp_path, (), 8000)["model-impl"] == "vllm"


def test_weights_that_a_killed_stage_left_in_memory_go_when_another_one_starts(tmp_path, monkeypatch):
    monkeypatch.setattr(vllm_rollouts, "MEMORY", tmp_path)
    for name in ("clgrpo-killed", "clgrpo-alive", "clgrpo-of-an-older-version", "others"):
        (tmp_path / name / "weights").mkdir(parents=True)
    (tmp_path / "clgrpo-killed" / vllm_rollouts.LOCK).touch()
    (tmp_path / "run" / "stage").mkdir(parents=True)
    work = SimpleNamespace(folder=tmp_path / "run" / "stage")
    with acquire(tmp_path / "clgrpo-alive" / vllm_rollouts.LOCK), vllm_rollouts._scratch(work, tmp_path) as first:
        assert first.parent == tmp_path
        left = {path.name for path in tmp_path.glob("[!.]*")}
        assert left == {"clgrpo-alive", "clgrpo-of-an-older-version", "others", "run", first.name}
        # A stage beside this one leaves it in peace.
        other = SimpleNamespace(folder=tmp_path / "run" / "other")
        with vllm_rollouts._scratch(other, tmp_path) as second:
            assert {first.is_dir(), second.is_dir(), first != second} == {True}
    assert not any(folder.exists() for folder in (first, second))


def test_a_server_takes_as_many_pictures_as_the_row_with_most_has_and_none_is_opened():
    rows = image_dataset({"id": ["a", "b", "c"], "images": [["no.png"], [], ["no.png", "nor.png"]]})
    assert most_pictures(rows) == 2


def test_every_picture_of_a_prompt_is_sent_in_its_place():
    pictures = [Image.new("RGB", (4, 4), color) for color in ("red", "blue")]
    row = {"prompt": user_turn("Is <image 2> like <image 1>?", 2), "images": [pictures[1], pictures[0]]}
    ((message,),) = [served_messages(prompt, lambda image: image.getpixel((0, 0))) for prompt in prompts_of([row])]
    assert message["content"] == [
        {"type": "text", "text": "Is"},
        {"type": "image_url", "image_url": {"url": (0, 0, 255)}},
        {"type": "text", "text": "like"},
        {"type": "image_url", "image_url": {"url": (255, 0, 0)}},
        {"type": "text", "text": "?"},
    ]


@pytest.mark.parametrize("dora", [False, True])
def test_merged_weights_are_those_of_a_merge_and_leave_the_adapter_untouched(dora):
    from peft import LoraConfig, get_peft_model

    class Model(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b, self.norm = torch.nn.Linear(8, 8), torch.nn.Linear(8, 4), torch.nn.LayerNorm(4)

    torch.manual_seed(0)
    model = get_peft_model(Model(), LoraConfig(r=2, target_modules=["a"], modules_to_save=["b"], use_dora=dora))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.1 * torch.randn_like(parameter)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    merged = served_weights(model, torch.float32, keep=True)
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    expected = model.merge_and_unload().state_dict()
    assert merged.keys() == expected.keys()
    assert all(torch.equal(merged[name], tensor) for name, tensor in expected.items())
    assert not torch.equal(merged["a.weight"], before["base_model.model.a.base_layer.weight"])


def test_weights_are_rounded_on_their_device_and_held_once_by_the_rank_that_writes():
    model = torch.nn.Sequential(torch.nn.Linear(8, 16, bias=False), torch.nn.BatchNorm1d(16), torch.nn.Linear(16, 8))
    model.append(torch.nn.Linear(8, 16, bias=False))
    # Tied: it comes once.
    model[3].weight = model[0].weight
    with torch.profiler.profile(profile_memory=True) as seen:
        weights = served_weights(model, torch.bfloat16, keep=True)
    floats = [tensor for tensor in weights.values() if tensor.is_floating_point()]
    assert {tensor.dtype for tensor in floats} == {torch.bfloat16}
    assert weights["1.num_batches_tracked"].dtype == torch.int64
    assert "3.weight" not in weights
    assert sum(max(0, event.self_cpu_memory_usage) for event in seen.events()) == sum(one.nbytes for one in floats)
    assert served_weights(model, torch.bfloat16, keep=False) == {}


def test_pictures_are_encoded_by_the_threads_that_send_them(monkeypatch):
    server = _Server("A")
    picture, bodies = _Picture(), []
    monkeypatch.setattr(server, "post", lambda path, body: bodies.append(body))
    prompt = [{"role": "user", "content": [{"type": "image", "image": picture}, {"type": "text", "text": "What?"}]}]
    list(server._ask([prompt] * 4, 2, 0).replies)
    assert len(bodies) == 2
    assert len(picture.threads) == 1
    assert picture.threads[0] is not threading.current_thread()


def test_the_caches_of_all_engines_of_a_server_are_counted_together():
    metrics = """# TYPE vllm:prefix_cache_queries_total counter
vllm:prefix_cache_queries_total{engine="0",model_name="policy"} 100.0
vllm:prefix_cache_queries_total{engine="1",model_name="policy"} 60.0
vllm:prefix_cache_hits_total{engine="0",model_name="policy"} 80.0
vllm:external_prefix_cache_hits_total{engine="0"} 7.0
vllm:mm_cache_queries_total 8.0
vllm:mm_cache_hits_total 7.0
"""
    assert cache_counts(metrics) == {"prefix": (80.0, 160.0), "image": (7.0, 8.0)}
    assert cache_counts("") == {"prefix": (0.0, 0.0), "image": (0.0, 0.0)}


class _Server(PolicyServer):
    """A server that is not there, of a trainer that trains on its rollouts; notes what is done. A prompt is a row's name."""

    def __init__(self, rollouts: str, fails: str = "", drift: float = 0.0, ahead: bool = False) -> None:
        model = SimpleNamespace(config=SimpleNamespace(image_token_id=5))
        accelerator = SimpleNamespace(
            process_index=0,
            is_main_process=True,
            wait_for_everyone=lambda: self.done.append("none in flight"),
            unwrap_model=lambda _: model,
        )
        options = "temperature top_p top_k min_p repetition_penalty eos_token_ids"
        trainer = SimpleNamespace(
            accelerator=accelerator,
            model=model,
            state=SimpleNamespace(global_step=0, max_steps=len(rollouts)),
            args=SimpleNamespace(seed=0, gradient_accumulation_steps=1),
            chat_template_kwargs={},
            generation_config=SimpleNamespace(max_new_tokens=1, min_new_tokens=None),
            _step=0,
            _metrics={"train": defaultdict(list)},
            **dict.fromkeys(options.split(), 1),
        )
        super().__init__(trainer, None, "http://nowhere", None, Lookahead(1, 1) if ahead else None)
        self.requests = ThreadPoolExecutor(1)
        self.fails, self.drift = fails, drift
        self.done: list[str] = []
        self.seeds: dict[str, int] = {}
        self.epoch = iter([[{"prompt": name}] * 2 for name in rollouts])

    def sync(self) -> None:
        self.done.append(f"weights {self.trainer.state.global_step}")
        self._served_step = self.trainer.state.global_step

    def post(self, path: str, body: Any = None) -> Any:
        name = body["messages"]
        self.seeds[name] = body["seed"]
        self.done.append(f"ask {name}")
        if name == self.fails:
            raise UserError("the server said no")
        choices = [
            {"index": at, "token_ids": [1], "logprobs": {"content": [{"logprob": 0.0}]}} for at in range(body["n"])
        ]
        return {"prompt_token_ids": [7], "choices": choices}

    def _log_cache_hits(self) -> None:
        self.done.append("collected")

    def roll_out(self) -> None:
        """As TRL and the stages' trainer do around it."""
        (rows,) = itertools.islice(self.read_rows(self.epoch, 1), 1)
        self.expect(rows)
        self.sync_weights()
        self.complete([row["prompt"] for row in rows], [[7]] * len(rows), 2)
        self.trainer._metrics["train"]["sampling/sampling_logp_difference/mean"].append(self.drift)
        self.check_drift()

    def train(self) -> list[str]:
        for _ in range(self.trainer.state.max_steps):
            self.roll_out()
            # What was asked ahead is asked now, not at some moment.
            self.requests.submit(lambda: None).result()
            self.done.append("train")
            self.trainer.state.global_step += 1
            self.trainer._step += 1
        return self.done


@pytest.fixture
def _plain_prompts(monkeypatch):
    """Rows' names as what is sent for them."""
    monkeypatch.setattr("stages.rollouts.vllm_rollouts.served_messages", lambda prompt, data_url: prompt)


@pytest.mark.usefixtures("_plain_prompts")
def test_weights_change_only_between_a_rollout_and_the_asking_for_the_next():
    server = _Server("ABC", ahead=True)
    first = ["weights 0", "ask A", "none in flight", "collected", "ask B", "train"]
    second = ["none in flight", "collected", "weights 1", "ask C", "train"]
    assert server.train() == [*first, *second, "none in flight", "collected", "train"]
    assert server.trainer._metrics["train"]["sampling/staleness"] == [0, 1, 1]
    assert len(set(server.seeds.values())) == 3


@pytest.mark.usefixtures("_plain_prompts")
def test_without_rollouts_ahead_each_rollout_is_asked_with_the_present_weights():
    server = _Server("AB")
    assert server.train() == [
        *("weights 0", "ask A", "none in flight", "collected", "train"),
        *("weights 1", "ask B", "none in flight", "collected", "train"),
    ]
    assert server.trainer._metrics["train"]["sampling/staleness"] == [0, 0]


@pytest.mark.usefixtures("_plain_prompts")
def test_what_the_server_refused_ahead_is_raised_when_it_is_collected():
    server = _Server("ABC", fails="B", ahead=True)
    with pytest.raises(UserError, match="the server said no"):
        server.train()
    assert server.done[-2:] == ["ask B", "train"]


@pytest.mark.usefixtures("_plain_prompts")
def test_the_limit_of_logprobs_holds_for_rollouts_of_the_present_weights():
    with pytest.raises(UserError, match="step 0: the rollouts' logprobs are 0"):
        _Server("A", drift=2 * MAX_DRIFT).train()
    server = _Server("AB", drift=2 * MAX_DRIFT)
    server._ahead = server._ask(["A", "A"], 2, "ahead")
    server.trainer.state.global_step = 1
    # What older weights sampled may differ.
    server.roll_out()
    assert server.staleness == 1
