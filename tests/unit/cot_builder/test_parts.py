"""The builder's small parts: verification, journal keys, prompts, teacher files, the server's command, the progress line."""

from __future__ import annotations

import dataclasses
import io
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
from PIL import Image

from cot_builder import serve
from cot_builder.journal import Journal
from cot_builder.openai_teacher import OpenAITeacher, data_url
from cot_builder.progress import Progress
from cot_builder.prompt import load_prompt, prompt_names
from cot_builder.teachers import OpenAIConfig, Reply, Request, load_teacher, teacher_files
from cot_builder.verify import REASONS, Accepted, Rejected, accept
from pipeline.errors import UserError
from pipeline.labels import LabelSet
from pipeline.tasks import Example, Split, Task

TASK = Task(
    "t",
    LabelSet.of(["awe", "fear"], {"awe": ["wonder"]}, descriptions={"awe": "something vast"}),
    "What is felt?",
    ("train",),
    lambda _: Split(()),
)
ROW = Example("r", Path("none.jpg"), "awe")


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("<think>Tall peaks.</think>\n<answer>awe</answer>", None),
        (" <think>Tall peaks.</think><answer> Awe. </answer>\n", None),
        ("<think>Tall peaks.</think><answer>wonder</answer>", None),
        ("<think>Tall peaks.</think><answer>fear</answer>", "wrong_label"),
        ("<think>Tall peaks.</think><answer>awe or fear</answer>", "not_a_label"),
        ("<think>Tall peaks.</think><answer>joy</answer>", "not_a_label"),
        ("<answer>awe</answer>", "no_think"),
        ("awe", "no_think"),
        ("", "empty"),
        ("<think>Tall peaks.</think><answer>awe</answer> Hope this helps!", "text_outside"),
        ("<think>Tall peaks.</think><answer>awe</answer><answer>awe</answer>", "several_answers"),
        ("<think>Tall peaks.", "unclosed_think"),
        ("<think> </think><answer>awe</answer>", "empty_think"),
        ("<think>The correct answer is awe.</think><answer>awe</answer>", "leakage"),
        ("<think>Peaks, so the given label fits.</think><answer>awe</answer>", "leakage"),
        ("<think>It is labeled as awe.</think><answer>awe</answer>", "leakage"),
        ("<think>Matches the ground truth.</think><answer>awe</answer>", "leakage"),
        ("<think>A labeled bottle on the right; the answer is calm.</think><answer>awe</answer>", None),
    ],
)
def test_what_is_accepted_and_why_not(text, reason):
    verdict = accept(ROW, Reply(text), TASK)
    if reason is None:
        assert isinstance(verdict, Accepted)
        assert verdict.answer == "awe"
        assert verdict.completion == f"<think>{verdict.think}</think>\n<answer>awe</answer>"
    else:
        assert verdict == Rejected(reason)
        assert reason in REASONS


def test_a_refused_request_is_rejected_whatever_its_text():
    assert accept(ROW, Reply("<think>x</think><answer>awe</answer>", refused="HTTP 400"), TASK) == Rejected(
        "request_refused"
    )


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
        **changes,
    ):
        teacher = OpenAITeacher("t", dataclasses.replace(config, **changes), task, load_prompt(prompt), seed, 1)
        return teacher.request(Example(row, path, label), attempt).key

    return key


def test_whatever_changes_the_reply_changes_the_key(key_of, tmp_path):
    other_image = tmp_path / "b.png"
    Image.new("RGB", (8, 8), "blue").save(other_image)
    other_task = dataclasses.replace(TASK, question="Which?")
    changes = [
        {"model": "other"}, {"revision": "v2"}, {"temperature": 0.1}, {"top_p": 0.5}, {"max_tokens": 7}, {"image_size": 64},
        {"extra_body": {"top_k": 5}}, {"row": "other"}, {"label": "fear"}, {"attempt": 1}, {"prompt": "answer_hidden_v1"},
        {"task": other_task}, {"seed": 1}, {"path": other_image},
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


def test_a_changed_prompt_file_changes_the_key(key_of, monkeypatch, tmp_path):
    before = key_of()
    folder = tmp_path / "prompts"
    folder.mkdir()
    source = (Path(serve.__file__).parent / "prompts" / "answer_given_v1.jinja").read_text()
    (folder / "answer_given_v1.jinja").write_text("{# reworded #}" + source)
    monkeypatch.setattr("cot_builder.prompt._FOLDER", folder)
    assert key_of() != before


def test_the_journal_gives_back_what_it_was_given(tmp_path):
    request, reply = Request.of({"a": 1}), Reply("täxt \0 \n", usage={"prompt_tokens": 3})
    with Journal(tmp_path) as journal:
        assert journal.find(request.key) is None
        number = journal.add(request, reply, row_id="r", teacher="t", attempt=0)
    with Journal(tmp_path) as journal:
        assert journal.find(request.key) == (number, reply)
        assert journal.read(number) == reply
        assert len(journal) == 1


def test_a_damaged_journal_says_what_to_do(tmp_path):
    (tmp_path / "replies.sqlite").write_bytes(b"not a database, but long enough to look like one" * 40)
    with pytest.raises(UserError, match="move it away"):
        Journal(tmp_path)


def test_every_prompt_renders_and_only_answer_given_tells_the_label():
    assert {"answer_hidden_v1", "answer_given_v1"} <= set(prompt_names())
    for name in ("answer_hidden_v1", "answer_given_v1"):
        prompt = load_prompt(name)
        text = prompt.render(TASK, "fear")
        assert not prompt.picture_first
        assert prompt.mode == name.rsplit("_v", 1)[0]
        assert "- awe: something vast\n- fear\n" in text
        assert "What is felt?" in text
        assert (prompt.render(TASK, "awe") != text) == (prompt.mode == "answer_given")


def test_task_think_asks_a_teacher_just_what_a_student_is_asked():
    prompt = load_prompt("task_think_v1")
    assert prompt.render(TASK, "fear") == prompt.render(TASK, "awe") == TASK.prompt("think")
    assert prompt.mode == "answer_hidden"
    assert prompt.picture_first


@pytest.mark.parametrize("name", sorted(teacher_files()))
def test_every_shipped_teacher_loads(name):
    config = load_teacher(name)
    if isinstance(config, OpenAIConfig):
        for cpu in (True, False):
            command = serve.serve_command(config.model, config.serve, [], cpu=cpu)
            assert command[1:5] == ["-m", "vllm.entrypoints.openai.api_server", "--model", config.model]


def test_a_misspelt_teacher_names_the_nearest():
    with pytest.raises(UserError, match="did you mean attribute_biased"):
        load_teacher("atribute_biased")


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ("kind: robot", "kind: 'robot' is not one of attribute, openai"),
        ("kind: attribute\nconfusion_rat: 0.5", "did you mean confusion_rate?"),
        ("kind: attribute\nomit_think_rate: 2", "omit_think_rate: 2"),
        ("kind: attribute\nattributes: [smell]", "'smell' is not one of"),
        ("kind: openai\nmodel: m\nbase_urls: ['http://me:pw@host/v1']", "must not carry a user"),
        ("kind: openai\nmodel: m\nbase_urls: ['http://host/v1']\napi_key_env: sk-12-ab", "not the key itself"),
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
    cpu = serve.serve_command("m", flags, ["--port", "1"], cpu=True)
    assert "--enforce-eager" not in cpu
    assert "--gpu-memory-utilization" not in cpu
    assert cpu[-2:] == ["--port", "1"]
    assert '{"image": 1}' in serve.serve_command("m", flags, [], cpu=False)


def test_the_launcher_prints_its_command(repo_root):
    done = subprocess.run(
        ["bash", "launch/serve_teacher.sh", "qwen2_5_vl_7b", "--dry-run", "--port", "9"],
        cwd=repo_root, capture_output=True, text=True, check=True, env={**os.environ, "PYTHON": sys.executable},
    )  # fmt: skip
    assert "Qwen/Qwen2.5-VL-7B-Instruct" in done.stdout
    assert done.stdout.endswith("--port 9\n")
    assert "--host 127.0.0.1" in done.stdout


def test_a_picture_is_scaled_down_never_up(tmp_path):
    path = tmp_path / "x.png"
    Image.new("RGBA", (200, 100)).save(path)
    assert data_url(path, 50).startswith("data:image/jpeg;base64,")
    assert len(data_url(path, 50)) < len(data_url(path, 200)) == len(data_url(path, 5000))


def test_the_progress_line_counts_and_keeps_quiet_off_a_terminal():
    stream = io.StringIO()
    progress = Progress(10, stream)
    progress.kept, progress.rejected = 4, 1
    progress.tick()
    assert stream.getvalue() == ""
    progress.finish()
    assert stream.getvalue().startswith("cot 5/10 rows, 4 kept, 1 rejected, ")
    assert stream.getvalue().count("\n") == 1


def test_help_is_quick_and_loads_nothing_heavy(repo_root):
    started = time.monotonic()
    code = (
        "import sys\nfrom cot_builder.__main__ import main\n"
        "try: main(['build', '--help'])\nexcept SystemExit: pass\n"
        "heavy = {'torch', 'openai', 'pyarrow', 'omegaconf', 'vllm'} & set(sys.modules)\nassert not heavy, heavy"
    )
    subprocess.run([sys.executable, "-c", code], cwd=repo_root, check=True, capture_output=True)
    assert time.monotonic() - started < 5  # A tenth of this, on a machine that is not busy.
