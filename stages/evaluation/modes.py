"""The ways a cell asks its rows: direct, think and blind in one step, the others in two.

    caption-…    perceiver: a general description             reasoner: answers from the description alone
    extract-…    reasoner:  what must be looked at, once per question text
                 perceiver: a description that holds it above all
                 reasoner:  answers from the description alone

Blind asks as direct does and leaves the pictures out; a mark of one is then read as words. A grey picture in its place would
be something that is seen, and no family here needs one to answer (our reading).

Descriptions and contents to observe are written greedily and kept for the other cells of the lab (text_cache.py).
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from pipeline.config.evaluation import ONE_STEP, LabTask, style_of
from pipeline.data.contents import Contents
from pipeline.data.questions.image_marks import without_marks
from pipeline.data.task import Task
from pipeline.files import digest, hash_to_number
from pipeline.metrics.descriptions import Vocabulary, named
from pipeline.scoring.trace import is_exact
from pipeline.types import Judgement, Question
from stages.evaluation import prompts
from stages.evaluation.backends.base import (
    Backend,
    Checkpoint,
    Generation,
    GenerationRequest,
    SamplingParams,
)
from stages.evaluation.backends.checkpoint import open_backend
from stages.evaluation.cell_record import PredictionRow
from stages.evaluation.rotation import own
from stages.evaluation.text_cache import Texts

_CHUNK = 8
"""Batches a reasoner thinks about before those that did not end are made to answer."""


@dataclass
class Models:
    """The models of a cell, each loaded when it is first asked."""

    batch_size: int
    images: int
    loaded: dict[str, Backend] = field(default_factory=dict)
    load_seconds: float = 0.0

    def get(self, checkpoint: Checkpoint) -> Backend:
        """Return a model, ready to answer."""
        key = digest(checkpoint.identity)
        if key not in self.loaded:
            began = time.monotonic()
            self.loaded[key] = open_backend(checkpoint, self.batch_size, self.images)
            self.load_seconds += time.monotonic() - began
        return self.loaded[key]

    def peak_memory(self) -> int | None:
        """Return most bytes that all of them took; None where all are served."""
        known = [peak for backend in self.loaded.values() if (peak := backend.peak_memory()) is not None]
        # Those of one process share one count.
        return max(known, default=None)


@dataclass(frozen=True)
class Setting:
    """What the rows of a cell are asked with.

    Args:
        observer: in extract-…, who says what to observe: the first reasoner of the lab, so that all read one description.
        texts: the folder of what models wrote for others.
        pictures: digest of each picture that is shown.
    """

    benchmark: Task
    task: LabTask
    mode: str
    seed: int
    models: Models
    perceiver: Checkpoint
    reasoner: Checkpoint
    observer: Checkpoint
    texts: Path
    pictures: Mapping[Path, str]
    vocabulary: Vocabulary
    own_prompts: prompts.Own = field(default_factory=dict)
    """The user's words for the two-step modes, by name."""
    contents: Contents | None = None
    """What to observe, where a file says it; covers every row with a picture."""


def answer(setting: Setting, questions: Sequence[Question]) -> Iterator[list[PredictionRow]]:
    """Yield GenerationRequest every question; rows as they are to stand in predictions.jsonl, batch by batch."""
    if not questions:
        return
    if setting.mode in ONE_STEP:
        yield from _in_one_step(setting, questions)
    else:
        yield from _in_two_steps(setting, questions)


def answer_token_limit(mode: str, most: int) -> int:
    """Return tokens an answer may have: a direct one is a label, a letter or a number."""
    return min(prompts.ANSWER_TOKENS, most) if mode in ("direct", "blind") else most


def _in_one_step(setting: Setting, questions: Sequence[Question]) -> Iterator[list[PredictionRow]]:
    benchmark, style = setting.benchmark, style_of(setting.mode)
    asked = {question.id: question for question in questions}
    texts = {question.id: benchmark.prompt(question, style) for question in questions}
    if setting.mode == "blind":
        texts = {row_id: without_marks(text) for row_id, text in texts.items()}
    asks = [
        GenerationRequest(question.id, texts[question.id], () if setting.mode == "blind" else question.images)
        for question in questions
    ]
    how = SamplingParams(answer_token_limit(setting.mode, setting.task.max_new_tokens))
    for batch in setting.models.get(setting.perceiver).answer(asks, how):
        rows = []
        for said in (each.with_thought() if style == "think" else each for each in batch):
            question = asked[said.id]
            judged = benchmark.judge(question, said.text, style)
            rows.append(_row(setting, question, texts[said.id], said, judged))
        yield rows


def _in_two_steps(setting: Setting, questions: Sequence[Question]) -> Iterator[list[PredictionRow]]:
    described = _describe(setting, questions)
    there = [question for question in questions if question.id in described]
    lost = [question for question in there if described[question.id]["failed"]]
    if lost:
        yield [_lost(setting, question, described[question.id]) for question in lost]
    ready = [question for question in there if not described[question.id]["failed"]]
    size = _CHUNK * setting.models.batch_size
    for start in range(0, len(ready), size):
        yield _reason(setting, ready[start : start + size], described)


def _reason(
    setting: Setting, questions: Sequence[Question], described: Mapping[str, PredictionRow]
) -> list[PredictionRow]:
    """The reasoner's answers from descriptions; a thought that does not end within its tokens is closed, and answers then."""
    reasoner = setting.models.get(setting.reasoner)
    steps = style_of(setting.mode) == "think"
    asks = {}
    for question in questions:
        seen = described[question.id]["text"] if question.images else None
        asked = prompts.asked(setting.benchmark, question)
        text = prompts.reason(asked, seen, steps, setting.own_prompts, len(question.images))
        asks[question.id] = GenerationRequest(question.id, text, seed=hash_to_number(f"{setting.seed}/{question.id}"))
    most = setting.task.max_new_tokens
    how = (
        SamplingParams(most, prompts.TEMPERATURE, prompts.TOP_P)
        if steps
        else SamplingParams(min(prompts.ANSWER_TOKENS, most))
    )
    thoughts = {said.id: said.with_thought() for batch in reasoner.answer(list(asks.values()), how) for said in batch}
    endless = [
        GenerationRequest(said.id, asks[said.id].text, said=prompts.closing(said.text))
        for said in thoughts.values()
        if said.truncated and prompts.is_unanswered(said.text, steps)
    ]
    forced = (
        {said.id: said for batch in reasoner.answer(endless, SamplingParams(prompts.ANSWER_TOKENS)) for said in batch}
        if endless
        else {}
    )
    rows = []
    for question in questions:
        if (said := thoughts.get(question.id)) is None:
            continue
        if said.truncated and prompts.is_unanswered(said.text, steps):
            if (end := forced.get(said.id)) is None:
                continue
            said = _joined(said, end)
        rows.append(_reasoned(setting, question, asks[question.id].text, said, described[question.id]))
    return rows


def _reasoned(
    setting: Setting, question: Question, prompt: str, said: Generation, seen: PredictionRow
) -> PredictionRow:
    thought, conclusion = prompts.final_answer(said.text)
    if conclusion is None and style_of(setting.mode) == "direct":
        thought, conclusion = "", said.spoken()
    judged = setting.benchmark.judge(question, conclusion or "", "direct")
    reason = "no_answer" if conclusion is None and judged.answer is None else judged.reason
    judged = Judgement(judged.answer, judged.correct, reason, thought or None, judged.guessed)
    row = _row(setting, question, prompt, said, judged)
    if not question.images:
        return row
    row["description"] = seen["text"]
    row["description_prompt"], row["description_truncated"] = seen["prompt"], seen["truncated"]
    found = named(seen["text"], question.attributes, setting.vocabulary)
    return {**row, **({"perception": found} if found else {})}


def _describe(setting: Setting, questions: Sequence[Question]) -> dict[str, PredictionRow]:
    """What the perceiver says of each row's pictures, as far as it is known from the cache; without rows a dead server left."""
    contents = _observe(setting, questions) if setting.mode.startswith("extract") else {}
    texts = _texts(setting, "descriptions", setting.perceiver)
    most = setting.task.max_new_tokens
    found: dict[str, PredictionRow] = {}
    asks, keys = [], {}
    for question in questions:
        if not question.images:
            found[question.id] = {"text": "", "failed": None}
            continue
        if setting.mode.startswith("extract") and question.id not in contents:
            continue
        prompt = prompts.perceive(len(question.images), contents.get(question.id, ""), setting.own_prompts)
        key = digest([prompt, [setting.pictures[image] for image in question.images], most])
        keys[question.id] = key
        if row := texts.get(key):
            found[question.id] = row
        else:
            asks.append(GenerationRequest(question.id, prompt, question.images))
    waiting = {ask.id: ask for ask in asks}
    for batch in setting.models.get(setting.perceiver).answer(asks, SamplingParams(most)) if asks else ():
        rows = [
            {
                "key": keys[said.id],
                "id": said.id,
                "prompt": waiting[said.id].text,
                "text": said.spoken(),
                "truncated": said.truncated,
                "tokens": said.tokens,
                "failed": said.failed,
                "detail": said.detail,
            }
            for said in batch
        ]
        texts.add(row for row in rows if not row["failed"])
        found |= {str(row["id"]): row for row in rows}
    return found


def _observe(setting: Setting, questions: Sequence[Question]) -> dict[str, str]:
    """What to look for, by id: told by the file, or asked of the observer once per question text, without any picture."""
    if (told := setting.contents) is not None:
        pairs = ((row.id, told.find(own(row).id, prompts.bare(own(row)))) for row in questions)
        return {row_id: text for row_id, text in pairs if text is not None}
    texts = _texts(setting, "observe", setting.observer)
    wanted: dict[str, str] = {}
    for question in questions:
        asked = prompts.asked(setting.benchmark, question)
        wanted.setdefault(asked.text, prompts.observe(asked, setting.own_prompts))
    new = [GenerationRequest(words, prompt) for words, prompt in wanted.items() if texts.get(digest(prompt)) is None]
    found = {words: row["text"] for words, prompt in wanted.items() if (row := texts.get(digest(prompt))) is not None}
    for batch in (
        setting.models.get(setting.observer).answer(new, SamplingParams(prompts.OBSERVE_TOKENS)) if new else ()
    ):
        # Nothing where it was refused: a general description.
        found |= {said.id: _one_line(said.spoken()) for said in batch}
        texts.add(
            {"key": digest(wanted[said.id]), "question": said.id, "text": found[said.id]}
            for said in batch
            if not said.failed
        )
    words = {question.id: prompts.bare(question) for question in questions}
    return {row_id: found[text] for row_id, text in words.items() if text in found}


def _row(setting: Setting, question: Question, prompt: str, said: Generation, judged: Judgement) -> PredictionRow:
    exact = is_exact(judged.think, question.trace) if setting.mode == "think" else None
    return {
        "id": question.id,
        "image": str(question.images[0]) if question.images else None,
        "images": [str(image) for image in question.images],
        "question": question.text,
        "options": list(question.options),
        "kind": question.kind,
        "gold": question.answer,
        "groups": setting.benchmark.groups_of(question),
        "cluster": question.cluster,
        "pair": question.pair,
        **({"row": own(question).id, "rotation": question.facts["rotation"]} if "rotation" in question.facts else {}),
        "mode": setting.mode,
        "style": style_of(setting.mode),
        "decoding": "greedy",
        "sample": 0,
        "prompt": prompt,
        "completion": said.text,
        "description": None,
        "label": None if said.failed else judged.answer,
        "guessed": None if said.failed else judged.guessed,
        "correct": judged.correct and not said.failed,
        "reason": said.failed or judged.reason,
        "think": judged.think,
        "truncated": said.truncated,
        "completion_tokens": said.tokens,
        "prompt_tokens": said.prompt_tokens,
        "seconds": round(said.seconds, 4),
        "attributes": dict(question.attributes),
        "logprob": said.logprob,
        **({"exact_trace": exact} if exact is not None else {}),
        **({"detail": said.detail} if said.failed else {}),
    }


def _lost(setting: Setting, question: Question, seen: PredictionRow) -> PredictionRow:
    """The row of a picture that could not be described."""
    said = Generation(question.id, "", failed=seen["failed"], detail=seen["detail"])
    return _row(setting, question, seen["prompt"], said, Judgement(None, False))


def _joined(thought: Generation, end: Generation) -> Generation:
    """A thought that was cut off, closed, and the answer that was forced."""
    return Generation(
        thought.id,
        prompts.closing(thought.text) + end.text,
        tokens=thought.tokens + end.tokens,
        prompt_tokens=thought.prompt_tokens,
        truncated=True,
        seconds=thought.seconds + end.seconds,
        logprob=thought.logprob,
        failed=end.failed,
        detail=end.detail,
    )


def _texts(setting: Setting, kind: str, checkpoint: Checkpoint) -> Texts:
    return Texts(setting.texts / f"{kind}-{digest(checkpoint.identity)[:16]}.jsonl")


def _one_line(text: str) -> str:
    return " ".join(text.split()).rstrip(" .")
