"""Launching on a cluster, without one: what the scripts hand to sbatch, srun, scontrol and ssh, which are stand-ins here."""

from __future__ import annotations

import json
import os
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[3]
SLURM = ROOT / "launch" / "slurm"
ALL = [
    *sorted(SLURM.iterdir()),
    *(ROOT / "launch" / name for name in ("serve_on_nodes.sh", "train_on_nodes.sh", "build_with_servers.sh")),
]
# One write a call, because several run at a time.
RECORD = '#!/bin/sh\ncall=$(printf "%s|" "$(basename "$0")" "$@")\nprintf "%s\\n" "$call" >>"$CALLS"\n'


class Cluster:
    """A copy of the launch folder with stand-ins for the cluster's commands and for Python, which record their words."""

    def __init__(self, folder: Path) -> None:
        self.root = folder / "repo"
        shutil.copytree(ROOT / "launch", self.root / "launch")
        (self.root / "cot_builder").mkdir()
        (self.root / "stages").mkdir()
        self.bin = folder / "bin"
        self.bin.mkdir()
        self.calls_file = folder / "calls"
        self.calls_file.touch()
        for name in ("sbatch", "srun", "ssh", "scontrol", "python"):
            self.fake(name)

    def fake(self, name: str, then: str = "") -> None:
        """Record the call, then do what a line of shell says."""
        (self.bin / name).write_text(f"{RECORD}{then}\n")
        (self.bin / name).chmod(0o755)

    def run(
        self, script: str, *words: str, cwd: Path | None = None, **slurm: object
    ) -> subprocess.CompletedProcess[str]:
        environment = {
            "PATH": f"{self.bin}:/usr/bin:/bin",
            "CALLS": str(self.calls_file),
            "PYTHON": "python",
            "SLURM_SUBMIT_DIR": str(self.root),
            **{f"SLURM_{name}": str(value) for name, value in slurm.items()},
        }
        return subprocess.run(
            ["bash", self.root / "launch" / script, *words],
            cwd=cwd or self.root, env=environment, capture_output=True, text=True, timeout=60, check=False,
        )  # fmt: skip

    def calls(self, name: str) -> list[str]:
        lines = self.calls_file.read_text().splitlines()
        return [" ".join(line.split("|")[1:]).strip() for line in lines if line.startswith(f"{name}|")]


@pytest.fixture
def cluster(tmp_path: Path) -> Cluster:
    return Cluster(tmp_path)


def task(number: int, count: int, job: int = 100) -> dict[str, object]:
    """What SLURM sets for a task of an array."""
    return {
        "ARRAY_TASK_ID": number, "ARRAY_TASK_COUNT": count, "ARRAY_TASK_MIN": 0, "ARRAY_TASK_MAX": count - 1,
        "JOB_ID": job + number,
    }  # fmt: skip


@pytest.mark.parametrize("script", ALL, ids=lambda path: path.name)
def test_every_script_parses_is_executable_stops_at_errors_and_explains_itself(script: Path) -> None:
    subprocess.run(["bash", "-n", script], check=True)
    assert script.stat().st_mode & 0o111, f"{script.name} is not executable"
    assert "set -euo pipefail" in script.read_text()
    done = subprocess.run(["bash", script, "-h"], cwd="/", capture_output=True, text=True, timeout=10, check=True)
    assert script.name in done.stdout
    assert "#SBATCH" not in done.stdout


@pytest.mark.parametrize("script", ALL, ids=lambda path: path.name)
def test_shellcheck_finds_nothing(script: Path) -> None:
    shellcheck = shutil.which("shellcheck", path=f"{Path(sys.executable).parent}:{os.environ['PATH']}")
    if shellcheck is None:
        pytest.skip("shellcheck is not installed")
    done = subprocess.run([shellcheck, script], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


def test_submit_queues_an_array_and_a_merge_that_waits_for_it(cluster: Cluster) -> None:
    cluster.fake("sbatch", "echo '4711;cluster'")
    words = [
        "--shards",
        "3",
        "--config",
        "demo",
        "cot.attempts=2",
        "task.question=What is it?",
        "--",
        "--gpus-per-node=8",
    ]
    done = cluster.run("slurm/cot_submit.sh", *words, cwd=cluster.root)
    assert done.returncode == 0, done.stderr
    array, merge = cluster.calls("sbatch")
    assert array == (
        "--parsable --array=0-2 --output=runs/slurm/%x-%A_%a.log --gpus-per-node=8 "
        "launch/slurm/cot_array.sbatch --config demo cot.attempts=2 task.question=What is it?"
    )
    assert merge == (
        "--parsable --dependency=afterok:4711 --kill-on-invalid-dep=yes --output=runs/slurm/%x-%j.log "
        "launch/slurm/cot_merge.sbatch --config demo --shards 3 cot.attempts=2 task.question=What is it?"
    )
    assert (cluster.root / "runs" / "slurm").is_dir()
    assert "4711" in done.stdout


def test_submit_queues_nothing_for_a_config_that_is_wrong(cluster: Cluster) -> None:
    cluster.fake("python", "echo 'error: cot.atempts' >&2; exit 2")
    done = cluster.run("slurm/cot_submit.sh", "--shards", "3", "--config", "demo", "cot.atempts=2")
    assert done.returncode == 2
    assert "cot.atempts" in done.stderr
    assert cluster.calls("python") == ["-m cot_builder build --config demo --dry-run cot.atempts=2"]
    assert cluster.calls("sbatch") == []


def test_submit_takes_a_config_beside_the_user_and_shows_what_it_would_do(cluster: Cluster, tmp_path: Path) -> None:
    (tmp_path / "my run.yaml").touch()
    done = cluster.run("slurm/cot_submit.sh", "--shards=2", "--config", "my run.yaml", "--dry-run", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    array, merge = (shlex.split(line) for line in done.stdout.splitlines())
    assert f"{tmp_path}/my run.yaml" in array
    assert "--array=0-1" in array
    assert "--dependency=afterok:ARRAY" in merge
    assert cluster.calls("sbatch") == []


@pytest.mark.parametrize("words", [["--config", "demo"], ["--shards", "3"], ["--shards", "0", "--config", "demo"]])
def test_submit_asks_for_what_is_missing(cluster: Cluster, words: list[str]) -> None:
    done = cluster.run("slurm/cot_submit.sh", *words)
    assert done.returncode == 2
    assert "give --shards N and --config FILE" in done.stderr


def test_a_task_of_the_array_builds_its_shard_with_its_own_servers(cluster: Cluster) -> None:
    done = cluster.run(
        "slurm/cot_array.sbatch", "--config", "demo", "task.question=What is it?", cwd=Path("/"), **task(2, 16)
    )
    assert done.returncode == 0, done.stderr
    assert cluster.calls("python") == [
        "-m cot_builder.serving build --config demo task.question=What is it? --base-port 21632 --shard 2/16"
    ]


def test_tasks_on_one_node_have_ports_of_their_own(cluster: Cluster) -> None:
    for number in range(3):
        cluster.run("slurm/cot_array.sbatch", "--config", "demo", **task(number, 3, job=749))
    ports = [int(call.split("--base-port ")[1].split()[0]) for call in cluster.calls("python")]
    assert all(port > 1024 and port + 16 <= 32768 for port in ports)
    assert all(abs(a - b) >= 16 for a in ports for b in ports if a != b)
    assert len(set(ports)) == 3


def test_part_of_an_array_is_refused_for_its_shards_would_be_others(cluster: Cluster) -> None:
    # sbatch --array=3,5
    part = {**task(5, 2), "ARRAY_TASK_MIN": 3, "ARRAY_TASK_MAX": 5}
    done = cluster.run("slurm/cot_array.sbatch", "--config", "demo", **part)
    assert done.returncode == 2
    assert "--array must be 0-(n-1)" in done.stderr
    assert cluster.calls("python") == []


def test_slurm_signals_the_build_itself_and_puts_it_back_after_a_failed_node() -> None:
    lines = (SLURM / "cot_array.sbatch").read_text().splitlines()
    assert {"#SBATCH --signal=B:TERM@120", "#SBATCH --requeue", "#SBATCH --open-mode=append"} <= set(lines)
    assert next(line for line in lines if "cot_builder.serving" in line).startswith("exec ")


@pytest.mark.parametrize("script", ["cot_array.sbatch", "cot_merge.sbatch", "cot_servers.sbatch"])
def test_a_job_submitted_from_elsewhere_says_where_to(cluster: Cluster, tmp_path: Path, script: str) -> None:
    done = cluster.run(f"slurm/{script}", "demo", **{**task(0, 1), "SUBMIT_DIR": tmp_path})
    assert done.returncode == 2
    assert "is not the repository; submit from there" in done.stderr


def test_merge_puts_as_many_shards_together_as_there_are(cluster: Cluster) -> None:
    done = cluster.run("slurm/cot_merge.sbatch", "--config", "demo", "--shards", "16", "seed=1")
    assert done.returncode == 0, done.stderr
    assert cluster.calls("python") == ["-m cot_builder merge --config demo --shards 16 seed=1"]
    shown = cluster.run("slurm/cot_merge.sbatch", "--config", "demo", "--shards", "16", "--dry-run")
    assert shown.stdout == "python -m cot_builder merge --config demo --shards 16\n"


ADDRESSES = 'case "$*" in *" addresses "*) echo "cot.endpoints.qwen=[http://node1:9/v1]" ;; esac'


def test_servers_of_a_job_run_one_per_node_and_leave_their_addresses(cluster: Cluster) -> None:
    cluster.fake("scontrol", "echo node1; echo node2")
    cluster.fake("srun", "sleep 1; cat endpoints-qwen.txt")
    cluster.fake("python", ADDRESSES)
    done = cluster.run(
        "slurm/cot_servers.sbatch",
        "teachers/qwen.yaml",
        "--max-model-len",
        "4096",
        JOB_ID=100,
        JOB_NODELIST="node[1-2]",
    )
    assert done.returncode == 0, done.stderr
    assert cluster.calls("scontrol") == ["show hostnames node[1-2]"]
    serve = "-m cot_builder.serve teachers/qwen.yaml --port 21600 --host 0.0.0.0 --max-model-len 4096"
    options = "--nodes=2 --ntasks=2 --ntasks-per-node=1 --kill-on-bad-exit=0 --wait=0"
    assert cluster.calls("srun") == [f"{options} python {serve}"]
    waited = "-m cot_builder.serving addresses teachers/qwen.yaml node1 node2 --port 21600 --wait"
    assert cluster.calls("python") == [waited]
    assert "endpoints-qwen.txt: cot.endpoints.qwen=[http://node1:9/v1]" in done.stdout
    assert not list(cluster.root.glob("endpoints*")), "addresses of servers that are gone stay behind"


def test_servers_of_a_job_that_die_end_it(cluster: Cluster) -> None:
    cluster.fake("scontrol", "echo node1")
    cluster.fake("srun", "exit 1")
    cluster.fake("python", "exec sleep 30")
    done = cluster.run("slurm/cot_servers.sbatch", "qwen", JOB_ID=1, JOB_NODELIST="node1")
    assert done.returncode == 1
    assert "the servers ended before all answered" in done.stderr
    assert not list(cluster.root.glob("endpoints*"))


def test_servers_over_ssh_start_on_every_host_and_print_the_override(cluster: Cluster) -> None:
    cluster.fake("ssh", "sleep 1")
    cluster.fake("python", ADDRESSES)
    done = cluster.run(
        "serve_on_nodes.sh", "--port", "9", "node1", "node2", "--", "my teacher.yaml", "--max-model-len", "4096"
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout == "cot.endpoints.qwen=[http://node1:9/v1]\n"
    serve = r"exec ./launch/serve_teacher.sh my\ teacher.yaml --port 9 --host 0.0.0.0 --max-model-len 4096"
    remote = f"cd {cluster.root} && {serve}"
    assert sorted(cluster.calls("ssh")) == [f"-tt -o BatchMode=yes {host} {remote}" for host in ("node1", "node2")]
    assert cluster.calls("python") == ["-m cot_builder.serving addresses my teacher.yaml node1 node2 --port 9 --wait"]


def test_a_user_s_name_at_a_host_is_for_ssh_alone(cluster: Cluster) -> None:
    cluster.fake("python", ADDRESSES)
    done = cluster.run("serve_on_nodes.sh", "--dry-run", "me@node1", "node2", "--", "qwen")
    assert done.stdout.splitlines()[0].startswith("ssh -tt me@node1 ")
    assert cluster.calls("python") == ["-m cot_builder.serving addresses qwen node1 node2"]


def test_a_teacher_s_file_is_the_user_s_and_found_in_the_hosts_repository(cluster: Cluster, tmp_path: Path) -> None:
    inside = cluster.root / "configs" / "teachers" / "qwen.yaml"
    inside.parent.mkdir(parents=True)
    for file in (inside, tmp_path / "own.yaml"):
        file.touch()
    for cwd, word, named in (
        (tmp_path, "own.yaml", f"{tmp_path}/own.yaml"),
        (inside.parent, "qwen.yaml", "configs/teachers/qwen.yaml"),
    ):
        done = cluster.run("serve_on_nodes.sh", "--dry-run", "--root", "/srv/x", "node1", "--", word, cwd=cwd)
        assert f"./launch/serve_teacher.sh {named} --host" in shlex.split(done.stdout.splitlines()[0])[3]


def test_servers_over_ssh_have_the_key_which_no_command_line_shows(cluster: Cluster, tmp_path: Path) -> None:
    """They would serve whoever reaches them, for ssh hands no variables on."""
    key = "a 'secret' of $5"
    # Runs what it is told with a login shell's fresh environment, as sshd does.
    cluster.fake("ssh", 'for last do :; done; exec env -i PATH="$PATH" CALLS="$CALLS" TMPDIR="$THERE" sh -c "$last"')
    cluster.fake("python", ADDRESSES)
    served = cluster.root / "launch" / "serve_teacher.sh"
    served.write_text(f'#!/bin/sh\nprintf "%s|" "$VLLM_API_KEY" "$@" > {tmp_path}/served\nsleep 1\n')
    there = tmp_path / "there"
    there.mkdir()
    environment = {
        "PATH": f"{cluster.bin}:/usr/bin:/bin", "CALLS": str(cluster.calls_file), "PYTHON": "python",
        "VLLM_API_KEY": key, "THERE": str(there),
    }  # fmt: skip
    script = cluster.root / "launch" / "serve_on_nodes.sh"
    words = ["node1", "--", "qwen", "--chat-template", "my file"]
    done = subprocess.run([script, *words], env=environment, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "served").read_text().split("|")[:-1] == [key, "qwen", "--host", "0.0.0.0", *words[3:]]
    assert "secret" not in cluster.calls_file.read_text()
    assert list(there.iterdir()) == []


def test_a_host_that_fails_shows_its_log_and_stops_the_others(cluster: Cluster) -> None:
    cluster.fake("ssh", 'case "$*" in *node2*) echo "Permission denied"; exit 255 ;; *) exec sleep 30 ;; esac')
    cluster.fake("python", "exec sleep 30")
    done = cluster.run("serve_on_nodes.sh", "node1", "node2", "--", "qwen")
    assert done.returncode == 1
    assert "node2: Permission denied" in done.stderr


def test_the_servers_over_ssh_end_with_the_script(cluster: Cluster) -> None:
    cluster.fake("ssh", 'echo $$ >>"$CALLS.pids"; exec sleep 30')
    cluster.fake("python", ADDRESSES)
    environment = {"PATH": f"{cluster.bin}:/usr/bin:/bin", "CALLS": str(cluster.calls_file), "PYTHON": "python"}
    script = cluster.root / "launch" / "serve_on_nodes.sh"
    with subprocess.Popen([script, "node1", "node2", "--", "qwen"], env=environment, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline().startswith(b"cot.endpoints.qwen=")
        process.terminate()
        assert process.wait(timeout=20) == 143
    for pid in Path(f"{cluster.calls_file}.pids").read_text().split():
        assert not Path(f"/proc/{pid}").exists()


def test_ssh_dry_run_connects_to_nobody(cluster: Cluster) -> None:
    cluster.fake("python", ADDRESSES)
    done = cluster.run("serve_on_nodes.sh", "--root", "/srv/clgrpo", "--dry-run", "node1", "--", "qwen")
    assert done.returncode == 0, done.stderr
    host, override = done.stdout.splitlines()
    assert shlex.split(host)[:3] == ["ssh", "-tt", "node1"]
    assert shlex.split(host)[3].startswith("cd /srv/clgrpo && exec ./launch/serve_teacher.sh qwen")
    assert override.startswith("cot.endpoints.qwen=")
    assert cluster.calls("ssh") == []


@pytest.mark.parametrize("words", [["node1"], ["--", "qwen"], ["node1", "--"], ["--gpus", "8", "node1", "--", "qwen"]])
def test_ssh_asks_for_what_is_missing(cluster: Cluster, words: list[str]) -> None:
    done = cluster.run("serve_on_nodes.sh", *words)
    assert done.returncode == 2
    assert "-h shows how to call this" in done.stderr
    assert cluster.calls("ssh") == []


def test_an_array_and_its_merge_really_build_what_one_machine_builds(tmp_path: Path) -> None:
    """The scripts' bodies as SLURM runs them, with the offline teacher: three shards, one of them twice, then the merge."""
    run = {
        "name": "whole",
        "output_dir": str(tmp_path / "runs"),
        "task": {"name": "scenes", "options": {"train": 40, "val": 1, "test": 1, "size": 32}},
        "cot": {"teachers": ["attribute_biased"], "min_rows_per_class": 0},
    }
    config = tmp_path / "run.yaml"
    config.write_text(yaml.safe_dump(run))

    def execute(command: list[object], **slurm: object) -> None:
        variables = {f"SLURM_{name}": str(value) for name, value in slurm.items()}
        environment = {**os.environ, "PYTHON": sys.executable, "SLURM_SUBMIT_DIR": str(ROOT), **variables}
        done = subprocess.run(
            [str(word) for word in command], cwd=tmp_path, env=environment,
            capture_output=True, text=True, timeout=120, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stdout + done.stderr

    for number in (0, 1, 2, 1):
        execute(["bash", SLURM / "cot_array.sbatch", "--config", config, "name=split"], **task(number, 3))
    execute(["bash", SLURM / "cot_merge.sbatch", "--config", config, "--shards", 3, "name=split"])
    execute([ROOT / "launch" / "build_with_servers.sh", "--config", config])

    split, whole = (tmp_path / "runs" / name / "cot" for name in ("split", "whole"))
    assert (split / "train.parquet").read_bytes() == (whole / "train.parquet").read_bytes()
    assert json.loads((split / "manifest.json").read_text())["status"] == "complete"


def test_training_runs_on_the_first_node_of_the_job_which_has_srun_start_the_others(cluster: Cluster) -> None:
    cluster.fake("scontrol", "printf 'n1\\nn2\\n'")
    cluster.fake("python", 'env | grep -E "^(NNODES|NODE_RANK|MASTER|CLGRPO|SRUN)" | sort')
    job = {"JOB_ID": 7, "JOB_NODELIST": "n[1-2]", "CPUS_PER_TASK": 16}
    done = cluster.run("slurm/train.sbatch", "--config", "demo", "a.b=c", **job)
    assert done.returncode == 0, done.stderr
    told = ["CLGRPO_SRUN=1", "MASTER_ADDR=n1", "NNODES=2", "NODE_RANK=0", "SRUN_CPUS_PER_TASK=16"]
    assert done.stdout.split() == told
    assert cluster.calls("python") == ["-m pipeline run --config demo a.b=c"]
    assert cluster.calls("srun") == []


@pytest.mark.parametrize("script", ["train.sbatch", "cot_servers.sbatch", "cot_array.sbatch"])
def test_a_job_asks_for_cores(script: str) -> None:
    assert "#SBATCH --cpus-per-task=" in (SLURM / script).read_text()


def test_the_signal_before_the_end_of_time_reaches_training_which_ends_in_its_own_time(cluster: Cluster) -> None:
    cluster.fake("scontrol", "echo n1")
    cluster.fake("python", "trap 'sleep 0.5; echo saved; exit 130' TERM; kill -TERM $PPID; while :; do sleep 0.1; done")
    done = cluster.run("slurm/train.sbatch", "--config", "demo", JOB_ID=7, JOB_NODELIST="n1")
    assert done.stdout == "saved\n"
    assert done.returncode == 130


def test_training_on_nodes_says_what_it_needs(cluster: Cluster) -> None:
    done = cluster.run("train_on_nodes.sh", "--nodes", "2", "--config", "demo")
    assert done.returncode == 2
    assert "--master" in done.stderr
    assert cluster.calls("python") == []
