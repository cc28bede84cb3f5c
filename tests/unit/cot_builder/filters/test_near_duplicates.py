"""Which texts repeat an earlier one."""

from __future__ import annotations

import json
import random
import subprocess
import sys

import pytest

from cot_builder.filters.near_duplicates import NearDuplicates


def prose(seed, count=80):
    draw = random.Random(seed)
    return [f"w{draw.randrange(3000)}" for _ in range(count)]


def test_a_text_with_one_word_changed_repeats_and_another_text_does_not():
    seen = NearDuplicates(0.9)
    texts = [prose(seed) for seed in range(300)]
    assert not any(seen.repeats(" ".join(text)) for text in texts)
    assert all(seen.repeats(f"{' '.join(text).upper()}!") for text in texts)
    assert all(seen.repeats(" ".join([*text[:-1], "other"])) for text in texts)
    assert not any(seen.repeats(" ".join(reversed(text))) for text in texts)


# Where the first k of 80 words stay, k - 2 of the 3-grams do, and the similarity is (k - 2) / (158 - k).
@pytest.mark.parametrize(
    ("threshold", "words_kept", "repeated"), [(0.9, 77, True), (0.9, 75, False), (0.6, 62, True), (0.6, 60, False)]
)
def test_the_threshold_is_held(threshold, words_kept, repeated):
    count = 0
    for seed in range(200):
        seen = NearDuplicates(threshold)
        text = prose(seed)
        seen.repeats(" ".join(text))
        count += seen.repeats(" ".join(text[:words_kept] + [f"n{n}" for n in range(80 - words_kept)]))
    assert count >= 190 if repeated else count == 0


def test_very_short_texts_repeat_only_themselves():
    seen = NearDuplicates(0.9)
    assert [seen.repeats(text) for text in ("", "A dog.", "a dog", "A cat.", "...", "他很好", "他很坏", "他很好")] == [
        False, False, True, False, True, False, False, True,
    ]  # fmt: skip


def test_the_same_rows_repeat_under_any_hash_seed(repo_root):
    code = (
        "import json, random\nfrom cot_builder.filters.near_duplicates import NearDuplicates\n"
        "r = random.Random(0)\nseen = NearDuplicates(0.5)\n"
        "found = [seen.repeats(' '.join(r.choices('abcdef', k=12))) for _ in range(2000)]\n"
        "print(json.dumps(found), seen._buckets(seen._grams[0]))"
    )
    outputs = []
    for number in ("1", "2"):
        command, env = [sys.executable, "-c", code], {"PYTHONHASHSEED": number}
        outputs.append(
            subprocess.run(command, cwd=repo_root, check=True, capture_output=True, text=True, env=env).stdout
        )
    assert outputs[0] == outputs[1]
    repeated = json.loads(outputs[0].partition("]")[0] + "]")
    assert 0 < sum(repeated) < 2000
