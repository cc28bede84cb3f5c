# make test | nightly | unit | lint | format | types | demo | lock
.PHONY: help install test nightly unit lint format types demo lock

help:
	@echo "make demo     train the demo, all stages, and report"
	@echo "make test     the tests of every change (make unit: only the fast ones)"
	@echo "make nightly  the other tests, which take longer"
	@echo "make lint     ruff and the import rules (make format mends what it can)"
	@echo "make types    mypy"
	@echo "make lock     re-resolve requirements.lock after a change of pyproject.toml"

install:
	@./launch/install.sh --dev

demo:
	./launch/run_all_stages.sh

test:
	./launch/test.sh

nightly:
	./launch/test.sh -m nightly --durations=15

unit: install
	.venv/bin/python -m pytest tests/unit

lint: install
	.venv/bin/ruff check .
	.venv/bin/ruff format --check .
	.venv/bin/lint-imports

format: install
	.venv/bin/ruff check --fix .
	.venv/bin/ruff format .

types: install
	.venv/bin/mypy

lock:
	./launch/lock.sh
