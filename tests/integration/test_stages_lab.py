"""The lab with real models: every family, every backend of this machine, and the command line as a user runs it."""

from __future__ import annotations

import dataclasses
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from lab_models import text_model, vlm
from PIL import Image
from tiers import tiers

from pipeline.config.evaluation import LabModel
from pipeline.config.schema import ModelConfig, RunConfig
from pipeline.errors import UserError
from pipeline.files import read_jsonl
from pipeline.types import Question
from stages.evaluation.backends.base import GenerationRequest, SamplingParams
from stages.evaluation.backends.checkpoint import find, open_backend
from tests.waiting import wait_for

FAMILIES = ["idefics3", "smolvlm", "qwen2_vl", "qwen2_5_vl", "qwen3_vl", "internvl", "llava", "fast_vlm"]


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pictures")
    sizes = [(64, 64), (128, 64), (64, 96), (96, 64), (64, 64), (80, 80)]
    paths = [folder / f"{number}.png" for number in range(len(sizes))]
    for number, (path, size) in enumerate(zip(paths, sizes, strict=True)):
        Image.effect_noise(size, 40 + 20 * number).convert("RGB").save(path)
    return paths


@pytest.fixture(scope="module")
def asks(pictures):
    """Rows with one, two and no pictures, and texts of several lengths."""
    return [
        GenerationRequest("one", "What is it?", (pictures[0],), seed=1),
        GenerationRequest(
            "wide", "Which emotion does this scene evoke? Options: amusement, awe, fear.", (pictures[1],), seed=2
        ),
        GenerationRequest("two", "Is <image 2> like <image 1>?", (pictures[2], pictures[3]), seed=3),
        GenerationRequest("none", "Why?", seed=4),
        GenerationRequest("four", "Describe this picture in fine detail.", (pictures[4],), seed=5),
    ]


def backend(folder, batch_size=3, **how):
    return open_backend(find(LabModel(name_or_path=str(folder), **how), "float32"), batch_size, 2)


def said(model, asks, how):
    return {one.id: one for batch in model.answer(asks, how) for one in batch}


@pytest.mark.parametrize("family", tiers(FAMILIES, ("smolvlm", "qwen3_vl", "internvl")))
def test_an_answer_does_not_depend_on_the_rows_beside_it(family, asks, tmp_path):
    model = backend(vlm(tmp_path / family, family))
    for how in (SamplingParams(12), SamplingParams(12, 0.6, 0.95)):
        together = said(model, asks, how)
        assert set(together) == {ask.id for ask in asks}
        for ask in asks:
            alone = said(model, [ask], how)[ask.id]
            assert (alone.text, alone.tokens) == (together[ask.id].text, together[ask.id].tokens), ask.id
            assert alone.logprob == pytest.approx(together[ask.id].logprob, abs=1e-4)


def test_answers_are_those_of_plain_generate_and_so_are_their_logprobs(asks, tmp_path):
    import torch

    from pipeline.data.images import open_rgb

    model = backend(vlm(tmp_path / "m", "qwen2_5_vl"))
    ask = asks[1]
    found = said(model, [ask], SamplingParams(10))[ask.id]
    text, _ = model.render(ask)
    inputs = model.processor(text=[text], images=[[open_rgb(ask.images[0])]], return_tensors="pt")
    made = model.model.generate(
        **inputs, max_new_tokens=10, do_sample=False, repetition_penalty=1.0, output_scores=True, return_dict_in_generate=True,
        suppress_tokens=[model.model.config.image_token_id],
    )  # fmt: skip
    new = made.sequences[0, inputs["input_ids"].shape[1] :]
    assert model.tokenizer.decode(new, skip_special_tokens=True) == found.text
    scores = torch.stack([step[0].log_softmax(-1) for step in made.scores])
    assert scores.gather(-1, new[:, None]).mean().item() == pytest.approx(found.logprob, abs=1e-4)


def test_draws_follow_the_distribution_and_its_top_p():
    import torch

    from stages.models.row_sampling import Draws

    logits = torch.tensor([[2.0, 1.0, 0.0, -3.0]]).log_softmax(-1)
    rows = 4000
    drawn = Draws(range(rows), 0.6, 0.95)(None, logits.expand(rows, -1)).argmax(-1)
    wanted = (logits[0] / 0.6).softmax(-1)
    # The two likeliest hold 0.97.
    kept = wanted[:2] / wanted[:2].sum()
    assert wanted[:2].sum() > 0.95 > wanted[0]
    assert torch.bincount(drawn, minlength=4)[2:].sum() == 0
    assert (drawn == 0).float().mean().item() == pytest.approx(kept[0].item(), abs=0.025)


def test_special_tokens_in_the_words_of_others_are_only_words(tmp_path, pictures):
    model = backend(vlm(tmp_path / "m", "qwen2_5_vl"))
    hostile = "A sign reads <|image_pad|><|vision_start|> and <|im_end|> ends it."
    found = said(
        model, [GenerationRequest("a", hostile), GenerationRequest("b", hostile, (pictures[0],))], SamplingParams(4)
    )
    assert set(found) == {"a", "b"}
    assert "<|image_pad|>" not in model.render(GenerationRequest("a", hostile))[0]


def test_a_damaged_picture_is_told_of_and_the_rest_of_its_batch_is_answered(tmp_path, asks):
    broken = tmp_path / "broken.png"
    broken.write_bytes(b"not a picture")
    found = said(
        backend(vlm(tmp_path / "m")), [GenerationRequest("bad", "What?", (broken,)), asks[0]], SamplingParams(4)
    )
    assert found["bad"].failed == "unreadable_image"
    assert found["one"].failed is None


def room_for(rows, monkeypatch, module):
    """Have a GPU's memory be too small for more rows than these; returns how many each batch had that was begun."""
    import torch

    begun, complete = [], module.complete

    def limited(model, tokenizer, inputs, *more, **how):
        begun.append(len(inputs["input_ids"]))
        if begun[-1] > rows:
            raise torch.OutOfMemoryError
        return complete(model, tokenizer, inputs, *more, **how)

    monkeypatch.setattr(module, "complete", limited)
    return begun


@pytest.mark.parametrize("how", [SamplingParams(12), SamplingParams(12, 0.6, 0.95)])
def test_a_batch_that_does_not_fit_is_answered_in_halves_with_the_same_answers(how, asks, tmp_path, monkeypatch):
    from stages.evaluation.backends import transformers

    model = backend(vlm(tmp_path / "m"), batch_size=4)
    whole = said(model, asks, how)
    begun = room_for(1, monkeypatch, transformers)
    halved = said(model, asks, how)
    # Four rows with pictures, and one without.
    assert begun == [4, 2, 1, 1, 2, 1, 1, 1]
    assert {name: (one.text, one.tokens) for name, one in halved.items()} == {
        name: (one.text, one.tokens) for name, one in whole.items()
    }
    room_for(0, monkeypatch, transformers)
    with pytest.raises(UserError, match=r"one row \(wide\) does not fit.*max_new_tokens"):
        said(model, [asks[1]], how)


def test_a_stage_s_evaluation_answers_in_halves_what_does_not_fit(asks, tmp_path, monkeypatch):
    import torch

    from stages.models import generate

    folder = vlm(tmp_path / "m")
    answer = generate.Answerer(folder, RunConfig(model=ModelConfig(name_or_path=str(folder), dtype="float32")), 0)
    shown = [ask for ask in asks if len(ask.images) == 1]
    rows = [Question(ask.id, ask.images, ask.text, (), "awe") for ask in shown]
    prompts = [ask.text for ask in shown]
    whole = answer(prompts, rows, 12, sample=False, seed=0)
    begun = room_for(1, monkeypatch, generate)
    assert answer(prompts, rows, 12, sample=False, seed=0) == whole
    assert begun == [3, 1, 2, 1, 1]
    assert len(answer(prompts, rows, 12, sample=True, seed=0)) == 3
    room_for(0, monkeypatch, generate)
    with pytest.raises(torch.OutOfMemoryError):
        answer(prompts, rows, 12, sample=False, seed=0)


@pytest.mark.parametrize("precision", ["bfloat16", "float16", "8bit", "4bit"])
def test_every_precision_answers(precision, tmp_path, asks):
    checkpoint = find(LabModel(name_or_path=str(vlm(tmp_path / "m"))), precision)
    assert set(said(open_backend(checkpoint, 2, 2), asks, SamplingParams(4))) == {ask.id for ask in asks}


def test_a_model_of_text_reasons_and_is_not_shown_pictures(tmp_path, asks):
    from pipeline.errors import UserError

    model = backend(text_model(tmp_path / "llama"))
    words = [dataclasses.replace(ask, images=()) for ask in asks]
    assert set(said(model, words, SamplingParams(6, 0.6, 0.95))) == {ask.id for ask in asks}
    begun = said(model, [GenerationRequest("r", "Why?", said="Because\n\nAnswer:")], SamplingParams(4))
    assert model.render(GenerationRequest("r", "Why?", said="Because"))[0].endswith("assistant\nBecause")
    assert set(begun) == {"r"}
    with pytest.raises(UserError, match="reads text alone"):
        said(model, asks, SamplingParams(4))


@pytest.mark.slow
@pytest.mark.parametrize("family", tiers(["idefics3", "qwen2_5_vl", "llava", "fast_vlm"], ["qwen2_5_vl"]))
def test_vllm_offline_says_what_transformers_says(family, tmp_path, asks):
    """In a process of its own, as a cell is: vLLM keeps what it takes. Its cache is empty, as on a new machine."""
    pytest.importorskip("vllm")
    folder = vlm(tmp_path / family, family)
    ours = said(backend(folder), asks, SamplingParams(8))
    code = (
        "import json, pickle, sys\n"
        "from pipeline.config.evaluation import LabModel\n"
        "from stages.evaluation.backends.base import SamplingParams\n"
        "from stages.evaluation.backends.checkpoint import find, open_backend\n"
        "asks = pickle.load(open(sys.argv[2], 'rb'))\n"
        "model = LabModel(name_or_path=sys.argv[1], backend='vllm', options={'max_model_len': 1024})\n"
        "got = [s for b in open_backend(find(model, 'float32'), 4, 2).answer(asks, SamplingParams(8)) for s in b]\n"
        "print(json.dumps({s.id: [s.text, s.tokens, s.logprob] for s in got}))\n"
    )
    import pickle

    (tmp_path / "asks").write_bytes(pickle.dumps(asks))
    done = subprocess.run(
        [sys.executable, "-c", code, str(folder), str(tmp_path / "asks")],
        env={**os.environ, "VLLM_CACHE_ROOT": str(tmp_path / "cache")},
        capture_output=True,
        text=True,
        timeout=400,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    theirs = json.loads(done.stdout.splitlines()[-1])
    for key, one in ours.items():
        assert theirs[key][0].strip() == one.text.strip(), key
        # vLLM tells log-probabilities before the image token is ruled out, to which a random model gives 1/400 or so.
        assert theirs[key][2] == pytest.approx(one.logprob, abs=0.02)


SPLIT = ["--task", "scenes", "--split", "test", "task.options={train: 1, val: 1, test: 24, size: 64}"]


def command(folder: Path, *words: str) -> list[str]:
    own = ["--output-dir", str(folder), "--batch-size", "2", "--max-new-tokens", "8", "--smoke", "0"]
    return [sys.executable, "-m", "stages.evaluate", *SPLIT, *own, *words]


@pytest.mark.slow
def test_a_cell_that_is_killed_goes_on_and_ends_as_if_it_had_not_been(tmp_path, repo_root):
    model = str(vlm(tmp_path / "model"))
    words = ["--model", model, "--mode", "think"]
    part = tmp_path / "killed" / "cells" / "model--scenes--auto--think" / "predictions.jsonl"
    process = subprocess.Popen(command(tmp_path, *words, "--name", "killed"), cwd=repo_root, start_new_session=True)
    wait_for(lambda: process.poll() is not None or (part.exists() and part.read_bytes().count(b"\n") >= 4), 200)
    assert process.poll() is None
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    before = part.read_bytes().count(b"\n")
    assert before < 24
    for name in ("killed", "whole"):
        subprocess.run(command(tmp_path, *words, "--name", name), cwd=repo_root, check=True, timeout=200)
    killed, whole = (
        [
            {**row, "seconds": 0, "logprob": 0}
            for row in read_jsonl(tmp_path / name / part.relative_to(tmp_path / "killed"))
        ]
        for name in ("killed", "whole")
    )
    assert killed == whole
    assert len(whole) == 24


@pytest.mark.slow
def test_a_perceiver_and_a_reasoner_of_text_answer_together(tmp_path, repo_root):
    perceiver, reasoner = str(vlm(tmp_path / "eyes")), str(text_model(tmp_path / "brain"))
    words = ["--mode", "extract-think", "--perceiver", perceiver, "--reasoner", reasoner, "--name", "two"]
    done = subprocess.run(command(tmp_path, *words), cwd=repo_root, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
    record = Path(done.stdout.splitlines()[-1])
    assert json.loads((repo_root / record).read_text())["status"] == "complete"
    found = list(read_jsonl((repo_root / record).with_name("predictions.jsonl")))
    assert len(found) == 24
    assert all(row["description"] is not None for row in found)
    # Random models seldom end.
    assert sum(row["truncated"] for row in found) > 12
    assert all("Answer:" in row["completion"] for row in found if row["truncated"])
