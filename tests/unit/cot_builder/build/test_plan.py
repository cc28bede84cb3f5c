"""The builder's small parts: journal keys, prompts, teacher files, the server's command."""

from __future__ import annotations

import dataclasses
import os
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from cot_builder import serve
from cot_builder.prompts import load_prompt, prompt_names
from cot_builder.teachers.base import TeacherQuestion
from cot_builder.teachers.config import OpenAIConfig, load_teacher, teacher_files
from cot_builder.teachers.images import TeacherImage, data_url
from cot_builder.teachers.openai import OpenAITeacher
from pipeline.data.task import labelled_task
from pipeline.errors import UserError
from pipeline.scoring.labels import LabelSet
from pipeline.system import vllm_server
from pipeline.types import Split, labelled_image

TASK = labelled_task(
    "t",
    LabelSet.of(["awe", "fear"], {"awe": ["wonder"]}, descriptions={"awe": "something vast"}),
    "What is felt?",
    ("train",),
    lambda _: Split(()),
)


ASKED = TASK.stand_ins("")[0]
NOTHING: dict = {}


@pytest.fixture
def key_of(tmp_path):
    image = tmp_path / "a.png"
    Image.new("RGB", (8, 8), "red").save(image)
    base = OpenAIConfig(model="m", base_urls=["http://localhost:1/v1"])

    def key(
        *,
        config=base,
        row="r",
        label="awe",
        attempt=0,
        prompt="answer_given_v1",
        task=TASK,
        seed=0,
        path=image,
        hints=(),
        mode="answer_given",
        seen=True,
        how=NOTHING,
        **changes,
    ):
        known = {"label": label, "hints": hints}
        asked = load_prompt(prompt)
        values = {name: value for name, value in known.items() if name in asked.uses}
        text = asked.render(task, ASKED, **values)
        pictures = (TeacherImage(path),) if seen else ()
        question = TeacherQuestion(labelled_image(row, path, label), mode, attempt, asked, text, pictures, **how)
        return OpenAITeacher("t", dataclasses.replace(config, **changes), seed, 1).request(question).key

    return key


def test_whatever_changes_the_reply_changes_the_key(key_of, tmp_path):
    other_image = tmp_path / "b.png"
    Image.new("RGB", (8, 8), "blue").save(other_image)
    other_task = dataclasses.replace(TASK, question="Which?")
    changes = [
        {"model": "other"}, {"revision": "v2"}, {"temperature": 0.1}, {"top_p": 0.5}, {"max_tokens": 7}, {"image_size": 64},
        {"extra_body": {"top_k": 5}}, {"serve": {"quantization": "awq"}}, {"serve": {"media-io-kwargs": {"image": {}}}},
        {"row": "other"}, {"label": "fear"}, {"attempt": 1}, {"prompt": "answer_hidden_v1"},
        {"task": other_task}, {"seed": 1}, {"path": other_image}, {"seen": False}, {"mode": "check_image"},
        {"prompt": "answer_given_v2"}, {"prompt": "answer_given_v2", "hints": [{"name": "scene", "value": "alley"}]},
        {"how": {"temperature": 0.2}}, {"how": {"max_tokens": 9}}, {"how": {"picture_first": True}},
        {"how": {"choices": ("awe", "fear")}}, {"how": {"choices": ("awe",)}},
    ]  # fmt: skip
    keys = [key_of(), *(key_of(**change) for change in changes)]
    assert len(set(keys)) == len(keys)


def test_what_does_not_change_the_reply_keeps_the_key(key_of, tmp_path):
    copy = tmp_path / "moved.png"
    copy.write_bytes((tmp_path / "a.png").read_bytes())
    changes = [
        {"base_urls": ["http://elsewhere:2/v1"]}, {"timeout": 1.0}, {"retries": 9}, {"concurrency": 3}, {"patience": 1.0},
        {"serve": {"port": 5}}, {"path": copy},
    ]  # fmt: skip
    assert {key_of(**change) for change in changes} == {key_of()}


def test_a_question_about_text_alone_has_one_key_whichever_row_asks_it(key_of):
    texts = [{"row": row, "seen": False, "label": "awe"} for row in ("r", "other")]
    assert len({key_of(**text) for text in texts}) == 1
    assert key_of(row="r", seen=False) != key_of(row="r", seen=False, attempt=1)


def test_a_changed_prompt_file_changes_the_key(key_of, monkeypatch, tmp_path):
    before = key_of()
    folder = tmp_path / "prompts"
    folder.mkdir()
    source = (Path(serve.__file__).parent / "prompts" / "answer_given_v1.jinja").read_text()
    (folder / "answer_given_v1.jinja").write_text("{# reworded #}" + source)
    monkeypatch.setattr("cot_builder.prompts.FOLDER", folder)
    assert key_of() != before


@pytest.mark.parametrize(
    ("flag", "file"),
    [("chat-template", ""), ("generation-config", "generation_config.json"), ("tokenizer", "vocab.json")],
)
def test_a_file_that_a_server_reads_counts_by_what_it_holds(key_of, tmp_path, flag, file):
    def told(text, name):
        named = tmp_path / name
        (named if file else tmp_path).mkdir(exist_ok=True)
        (named / file if file else named).write_text(text)
        return {"serve": {flag: str(named)}}

    before = key_of(**told("one", "a"))
    assert key_of(**told("one", "moved")) == before
    assert key_of(**told("two", "a")) != before
    # A template itself, longer than any name of a file.
    assert key_of(serve={flag: "{{ bos }}" * 1000}) != before


VALUES = {
    "label": "fear", "hints": [], "reasoning": "Tall peaks.", "sees_picture": False, "observe": "faces", "statements": ["It is."]
}  # fmt: skip


@pytest.mark.parametrize("name", prompt_names())
def test_every_prompt_renders_from_the_variables_there_are(name):
    prompt = load_prompt(name)
    text = prompt.render(TASK, ASKED, **{known: value for known, value in VALUES.items() if known in prompt.uses})
    assert text
    assert "{" not in text
    assert ("answered: fear." in text or "Answer: fear" in text) == (prompt.mode == "answer_given")


@pytest.mark.parametrize("name", ["answer_hidden_v1", "answer_hidden_v2", "answer_given_v1", "answer_given_v2"])
def test_a_reasoning_prompt_shows_question_and_options(name):
    prompt = load_prompt(name)
    text = prompt.render(TASK, ASKED, **{known: value for known, value in VALUES.items() if known in prompt.uses})
    assert not prompt.picture_first
    assert prompt.mode == name.rsplit("_v", 1)[0]
    assert "- awe: something vast\n- fear\n" in text
    assert "What is felt?" in text


@pytest.mark.parametrize("mode", ["hidden", "given"])
def test_without_hints_the_second_version_asks_as_the_first(mode):
    first, second = (load_prompt(f"answer_{mode}_v{version}") for version in (1, 2))
    label = {"label": "awe"} if mode == "given" else {}
    assert first.render(TASK, ASKED, **label) == second.render(TASK, ASKED, hints=[], **label)


def test_task_think_asks_a_teacher_just_what_a_student_is_asked():
    prompt = load_prompt("task_think_v1")
    assert prompt.render(TASK, ASKED) == TASK.prompt(ASKED, "think")
    assert prompt.mode == "answer_hidden"
    assert prompt.picture_first


@pytest.mark.parametrize("name", sorted(teacher_files()))
def test_every_shipped_teacher_loads(name):
    config = load_teacher(name)
    if isinstance(config, OpenAIConfig):
        for cpu in (True, False):
            command = vllm_server.serve_command(config.model, config.serve, [], cpu=cpu)
            assert command[1:5] == ["-m", "vllm.entrypoints.openai.api_server", "--model", config.model]


def test_a_misspelt_teacher_names_the_nearest():
    with pytest.raises(UserError, match="did you mean attribute_biased"):
        load_teacher("atribute_biased")


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ("kind: robot", "kind: 'robot' is not one of attribute, walker, lister, openai"),
        ("kind: attribute\nconfusion_rat: 0.5", "did you mean confusion_rate?"),
        ("kind: attribute\nomit_think_rate: 2", "omit_think_rate: 2"),
        ("kind: attribute\nattributes: [smell]", "'smell' is not one of"),
        ("kind: openai\nmodel: m\nbase_urls: ['http://me:pw@host/v1']", "must not carry a user"),
        ("kind: openai\nmodel: m\nbase_urls: ['http://host/v1']\napi_key_env: sk-12-ab", "not the key itself"),
        (
            "kind: openai\nmodel: m\nbase_urls: ['http://host/v1']\nserve: {mm_processor_kwargs: {}}",
            "serve.mm_processor_kwargs: is written mm-processor-kwargs",
        ),
        (
            "kind: openai\nmodel: m\nbase_urls: ['http://host/v1']\nserve: {revision: v2}",
            "serve.revision: is not read here; set revision:",
        ),
        (
            "kind: openai\nmodel: m\nbase_urls: ['http://host/v1']\nserve: {api-key: sk-12}",
            "serve.api-key: is a secret, which the manifest and the command would show",
        ),
        ("[1, 2]", "kind: None"),
    ],
)
def test_a_wrong_teacher_file_is_refused_with_the_reason(tmp_path, text, part):
    file = tmp_path / "t.yaml"
    file.write_text(text)
    with pytest.raises(UserError) as raised:
        load_teacher(str(file))
    assert part in str(raised.value)


def test_the_servers_flags(monkeypatch):
    flags = {
        "max-model-len": 5,
        "limit-mm-per-prompt": {"image": 1},
        "enforce-eager": False,
        "gpu-memory-utilization": 0.9,
    }
    cpu = vllm_server.serve_command("m", flags, ["--port", "1"], cpu=True)
    assert "--enforce-eager" not in cpu
    assert "--gpu-memory-utilization" not in cpu
    assert cpu[-2:] == ["--port", "1"]
    assert '{"image": 1}' in vllm_server.serve_command("m", flags, [], cpu=False)


def test_the_launcher_prints_its_command(repo_root):
    done = subprocess.run(
        ["bash", "launch/serve_teacher.sh", "qwen2_5_vl_7b", "--dry-run", "--port", "9"],
        cwd=repo_root, capture_output=True, text=True, check=True, env={**os.environ, "PYTHON": sys.executable},
    )  # fmt: skip
    assert "Qwen/Qwen2.5-VL-7B-Instruct" in done.stdout
    assert done.stdout.endswith("--port 9\n")
    assert "--host 127.0.0.1" in done.stdout


def test_a_second_teacher_is_told_to_take_another_gpu(repo_root, capsys):
    """Both would load into the first, and the second dies."""
    for page in ("README.md", "docs/cot_builder.md"):
        text = (repo_root / page).read_text(encoding="utf-8")
        assert "CUDA_VISIBLE_DEVICES=1 ./launch/serve_teacher.sh internvl3_8b" in text
    with pytest.raises(SystemExit):
        serve.main(["--help"])
    assert "CUDA_VISIBLE_DEVICES=1 gives a second teacher another one" in capsys.readouterr().out


def test_a_picture_is_scaled_down_never_up(tmp_path):
    path = tmp_path / "x.png"
    Image.new("RGBA", (200, 100)).save(path)
    assert data_url(path, 50).startswith("data:image/jpeg;base64,")
    assert len(data_url(path, 50)) < len(data_url(path, 200)) == len(data_url(path, 5000))


def test_help_loads_nothing_heavy(repo_root):
    code = (
        "import sys\nfrom cot_builder.__main__ import main\n"
        "try: main(['build', '--help'])\nexcept SystemExit: pass\n"
        "heavy = {'torch', 'aiohttp', 'pyarrow', 'omegaconf', 'vllm'} & set(sys.modules)\nassert not heavy, heavy"
    )
    subprocess.run([sys.executable, "-c", code], cwd=repo_root, check=True, capture_output=True)
