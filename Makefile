# The course's commands.  `make` alone lists them.
#
#   make setup PYTHON=python3.12                                        with another interpreter
#   PIP_EXTRA_INDEX_URL=https://download.pytorch.org/whl/cpu make setup  Linux without a GPU: 3 GB less to download

PYTHON ?=
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.wsfp-setup

# Nothing after the set-up needs a network, and nothing may wait for one.
export HF_HUB_OFFLINE := 1

.DELETE_ON_ERROR:
.PHONY: help setup tutorial test lab notebooks student instructor otter handout book book-links results sbom lock

help:
	@echo "make setup      create .venv and install the course into it (a few minutes, needs a network)"
	@echo "make tutorial   run every notebook; executed notebooks and HTML pages go to build/"
	@echo "make lab        open the notebooks in JupyterLab"
	@echo "make test       style checks, unit tests, and the notebooks as tests"
	@echo "make notebooks  write notebooks/*.ipynb from notebooks/src/*.py, and the repository's address where it is named"
	@echo "make student    notebooks without solutions, in build/student"
	@echo "make instructor notebooks with answers, minutes and typical mistakes, in build/instructor"
	@echo "make otter      masters for otter-grader, in build/otter"
	@echo "make handout    the executed notebooks as PDF, in build/handout (after make tutorial; needs Chromium)"
	@echo "make book       the book, in build/book/html (after make tutorial; needs a network the first time)"
	@echo "make results    measure everything in docs/results again, from a clean commit (about 5 hours on two cores)"
	@echo "make sbom       list what is installed, with versions and licences (CycloneDX), in build/sbom.json (needs a network)"
	@echo "make lock       write .ci/wheels.txt, the hashes of what CI installs (after a change of constraints.txt; needs a network)"

setup: $(STAMP)

$(STAMP): pyproject.toml constraints.txt tools/torchvision_cpu.py
	@rm -f $@
	@sh tools/make_venv.sh $(VENV) $(PYTHON)
	$(BIN)/python -m pip install --progress-bar off -c constraints.txt -e '.[all]'
	$(BIN)/python tools/torchvision_cpu.py
	@touch $@
	@echo "The course is installed in $(VENV).  Next: make tutorial, or make lab."

tutorial: $(STAMP)
	$(BIN)/python -m tools.run_notebooks

# Two processes at a time, so each gets one thread.
test: export OMP_NUM_THREADS := 1
test: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/python -m pytest -n 2 --dist loadfile --instafail
	$(BIN)/python -m tools.moved
	$(BIN)/python -m pytest --nbval-lax --nbval-current-env --nbval-cell-timeout=600 --timeout=0 \
	    -n 2 --dist loadfile --instafail build/moved/*.ipynb

lab: $(STAMP)
	$(BIN)/jupyter lab notebooks/00_start_here.ipynb

notebooks: $(STAMP)
	$(BIN)/python -m tools.address
	$(BIN)/python -m tools.notebooks
	$(BIN)/python -m tools.shape

student instructor: $(STAMP)
	$(BIN)/python -m tools.editions $@

otter: $(STAMP)
	$(BIN)/python -m tools.grading

handout: $(STAMP)
	$(BIN)/python -m tools.handout

book: $(STAMP)
	$(BIN)/python -m pip install --quiet -c constraints.txt -e '.[book]'
	$(BIN)/python -m tools.book

# Needs a network: does every link that leads out of the book lead somewhere?
book-links: book
	$(BIN)/python -m sphinx -b linkcheck -q build/book/source build/book/links

# uvx keeps the tool in an environment of its own.
sbom: $(STAMP)
	@mkdir -p build
	$(BIN)/uvx --from 'cyclonedx-bom>=7.3,<8' cyclonedx-py environment --pyproject pyproject.toml \
	    --output-reproducible --output-file build/sbom.json $(VENV)

# The other files of .ci/ are written by hand and say why.
lock: $(STAMP)
	grep -Ev '^(#|torch==|groundingdino-py==)' constraints.txt | UV_CUSTOM_COMPILE_COMMAND='make lock' $(BIN)/uv pip compile \
	    --quiet --no-deps --only-binary :all: --emit-build-options --generate-hashes --no-annotate \
	    --python-version 3.11.7 --output-file .ci/wheels.txt -

# Each command may be interrupted and started again; networks and parsers are kept in the cache.
results: $(STAMP)
	@$(BIN)/python -c "import sys; from wsfp_helpers.common.machine import revision as r; sys.exit(not r().isalnum())" \
	    || { echo "commit first: a result names a clean commit" >&2; exit 1; }
	for what in detector eq1 speed passes; do $(BIN)/python scripts/measure_ccd.py $$what docs/results || exit 1; done
	$(BIN)/python -m tools.bench --results docs/results
	$(BIN)/python -m tools.bench --pairs 30000 --results docs/results
	$(BIN)/python -m tools.scale --results docs/results
	$(BIN)/python -m tools.bench --evaluate --results docs/results
	$(BIN)/python -m tools.bench --parse --results docs/results || test $$? = 2  # 2: FRL London is not there
	$(BIN)/python -m tools.bench --trunk --results docs/results || test $$? = 2  # 2: FRL London is not there
	$(BIN)/python -m tools.bench --page --results docs/results || test $$? = 2  # 2: there is no Chromium, or no npm
	for table in table3 table4 fig6 vlm sums tuned mended; do \
	    $(BIN)/wsfp ablate $$table --results docs/results || exit 1; done
	for table in variants sweep eyes blocks start; do \
	    $(BIN)/wsfp ablate $$table --seeds 0 --results docs/results || exit 1; done
	for what in gradients mirror prompts areas; do $(BIN)/python scripts/measure_$$what.py docs/results || exit 1; done
	$(BIN)/python scripts/measure_regions.py steps docs/results
	$(BIN)/python scripts/measure_regions.py constants docs/results --seeds 0
	for what in tune run cost; do $(BIN)/wsfp systems $$what --results docs/results || exit 1; done
	$(BIN)/python scripts/measure_warnings.py docs/results
	$(BIN)/python scripts/measure_patches.py $(WSFP_DATA)/weights/dinov2_as_deit_small_patch16_224.fp16.safetensors \
	    docs/results || test $$? = 2  # 2: the weights or FRL London are not there
	$(BIN)/python scripts/measure_bfloat16.py docs/results || test $$? = 2  # 2: the processor has none
	$(BIN)/python scripts/measure_framing.py docs/results || test $$? = 2  # 2: FRL London is not there
	$(BIN)/python scripts/train_parsers.py scores --results docs/results
	$(BIN)/python scripts/ship_models.py scores --results docs/results
