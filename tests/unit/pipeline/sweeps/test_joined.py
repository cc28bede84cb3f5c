"""Sweeps put together are as one sweep of all their cells, the figure of smaller models with it."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
import yaml

from pipeline.__main__ import main
from pipeline.config.evaluation import LabConfig, cells
from pipeline.config.loader import to_plain
from pipeline.errors import UserError
from pipeline.files import read_json, write_json
from pipeline.metrics.stored import to_json
from pipeline.sweeps.joined import compare_sweeps, join
from pipeline.sweeps.page import downscaling
from pipeline.sweeps.results import Cells, results
from tests.unit.pipeline.sweeps.test_studies import known
from tests.unit.pipeline.sweeps.test_studies import lab as lab


def swept(config: LabConfig, name: str, models: tuple[str, ...]) -> Path:
    """A finished sweep of some of the models, its data in a folder of its own."""
    task = dataclasses.replace(config.tasks["v"].task, path=f"{config.output_dir}/{name}")
    config = dataclasses.replace(
        config,
        name=name,
        modes=["direct", "blind"],
        models={model: config.models[model] for model in models},
        tasks={"v": dataclasses.replace(config.tasks["v"], task=task)},
    )
    folder = Path(config.output_dir) / name
    write_json(folder / "results.json", to_json(results(known(config))))
    (folder / "lab.yaml").write_text(yaml.safe_dump(to_plain(config), sort_keys=False))
    return folder


def test_two_sweeps_together_are_one_sweep_of_both_and_draw_its_figure(
    lab: LabConfig, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    small, large = swept(lab, "small", ("small",)), swept(lab, "large", ("large", "served"))
    # One model has nothing to be below.
    assert downscaling(results(join([small])[0]), ["v"]) is None
    found = results(join([small, large])[0])
    whole = results(known(dataclasses.replace(lab, modes=["direct", "blind"])))
    assert (found.scaling, found.seeing, found.steps) == (whole.scaling, whole.seeing, whole.steps)
    assert found.cells == whole.cells
    out = tmp_path / "both"
    assert main(["compare", str(small), str(large), "--out", str(out)]) == 0
    assert capsys.readouterr().out.splitlines() == [str(out / "downscaling.png"), str(out / "index.html")]
    assert (out / "downscaling.png").read_bytes().startswith(b"\x89PNG")
    assert "small · bfloat16 · direct" in compare_sweeps([small, large], None)


def test_a_cell_of_both_is_taken_where_it_is_complete(lab: LabConfig) -> None:
    one, other = swept(lab, "one", ("small", "large")), swept(lab, "other", ("large", "served"))
    path = one / "cells" / "large--v--4bit--direct"
    (path / "evaluation.json").unlink()
    config = dataclasses.replace(lab, name="one", modes=["direct", "blind"])
    kept = {name: lab.models[name] for name in ("small", "large")}
    write_json(one / "results.json", to_json(results(Cells(dataclasses.replace(config, models=kept)))))
    joined, told = join([one, other])
    assert told == [f"4 cells of {other} are in a sweep before it, too; 1 are taken from it"]
    assert {joined.folder(cell).parents[1] for cell in cells(joined.config) if cell.id == path.name} == {other}
    assert len(joined.cells()) == 10


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"tasks.v.split": "val[:8]"}, "tasks: v is not the same in"),
        ({"models.small.name_or_path": "another"}, "models: small is not the same in"),
        ({"rotate_options": 2}, "settings: rotate_options is not the same in"),
    ],
)
def test_a_name_that_means_two_things_is_refused(lab: LabConfig, change: dict[str, object], said: str) -> None:
    one, other = swept(lab, "one", ("small",)), swept(lab, "other", ("small",))
    path = other / "lab.yaml"
    plain = yaml.safe_load(path.read_text())
    for key, value in change.items():
        *parents, last = key.split(".")
        at = plain
        for parent in parents:
            at = at[parent]
        at[last] = value
    path.write_text(yaml.safe_dump(plain))
    with pytest.raises(UserError, match=said):
        join([one, other])


def test_other_rows_are_told_and_other_words_for_two_steps_are_refused(lab: LabConfig) -> None:
    one, other = swept(lab, "one", ("small",)), swept(lab, "other", ("large",))
    for folder, digest in ((one, "aa"), (other, "bb")):
        for file in folder.glob("cells/*/evaluation.json"):
            write_json(file, read_json(file) | {"inputs": {"rows": digest}})
    assert join([one])[1] == []
    (told,) = join([one, other])[1]
    assert told.startswith(f"v: {one} and {other} were not asked the same rows")
    for folder, words in ((one, {}), (other, {"own_prompts": {"reason": "cc"}})):
        path = folder / "lab.yaml"
        path.write_text(path.read_text().replace("- blind", "- caption-think"))
        (cell,) = folder.glob("cells/*--bfloat16--direct")
        cell = cell.rename(cell.with_name(cell.name.replace("direct", "caption-think")))
        write_json(cell / "evaluation.json", {"inputs": {"rows": "aa", **words}})
    with pytest.raises(UserError, match="settings: prompts is not the same in"):
        join([one, other])


def test_sweeps_and_runs_are_not_mixed_and_no_sweep_is_written_over(lab: LabConfig, tmp_path: Path) -> None:
    one = swept(lab, "one", ("small",))
    with pytest.raises(UserError, match="not both"):
        main(["compare", str(one), str(tmp_path)])
    with pytest.raises(UserError, match="whose own results would be lost"):
        compare_sweeps([one], one)
    (one / "results.json").unlink()
    with pytest.raises(
        UserError, match=r"has no results\.json, which the command of a sweep .* one by one: .*one/cells/"
    ):
        join([one])
    (one / "results.json").write_text("{}")
    with pytest.raises(UserError, match=r"results\.json: not of this version"):
        join([one])
