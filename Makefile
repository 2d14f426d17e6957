# Two commands do everything on a fresh machine with Python 3.11 or newer and make:
#   make demo    set up, then play the whole story; leaves demo/report.html
#   make test    set up, then lint, type-check and test
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready

.PHONY: demo evidence-demo test lint ray-test objects-test study study-quick study-small study-scores study-text \
  engine-students engine-levels benchmarks conformance clean

demo: $(READY)
	$(BIN)/wmark demo --output demo

# From the demo's suspect to a signed, time-stamped bundle, checked in a fresh environment without wmark.
evidence-demo: $(READY)
	$(BIN)/wmark demo --output demo --quiet
	WMARK=$(BIN)/wmark PYTHON=$(BIN)/python CONSTRAINTS=$(CURDIR)/constraints.txt \
	  bash examples/07_evidence_bundle.sh demo demo/case

test: $(READY) lint
	$(BIN)/python -m pytest

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# Detection on a Ray cluster of two nodes on loopback, one of them killed at work.
ray-test: $(READY)
	$(BIN)/python -m pytest tests/test_scale_ray.py

# Detection in an object store: an S3 server on loopback. Its libraries want an older dateutil than the exact set has,
# so they get a virtual environment of their own, which looks into the other one.
OBJECTS := .venv-objects
objects-test: $(READY)
	test -x $(OBJECTS)/bin/python || $(BIN)/python -m venv $(OBJECTS)
	$(BIN)/python -c 'import sysconfig; print("import site; site.addsitedir(%r)" % sysconfig.get_path("purelib"))' \
	  > "$$($(OBJECTS)/bin/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')/beside.pth"
	$(OBJECTS)/bin/python -m pip install --quiet 'moto[s3]==5.2.5' flask==3.1.3 flask-cors==6.0.5 s3fs==2026.9.0 \
	  aiobotocore==3.10.0 botocore==1.43.117 boto3==1.43.117
	$(OBJECTS)/bin/python -m pytest tests/test_scale_objects.py

study: $(READY)
	$(BIN)/python -m pip install --quiet -c constraints.txt -e '.[dev,study]'
	$(BIN)/python benchmarks/study/study.py --work study
	$(BIN)/python benchmarks/study/evaluate.py study
	$(BIN)/python benchmarks/study/accounts.py study
	$(BIN)/python benchmarks/study/tables.py study

study-quick: $(READY)
	$(BIN)/python benchmarks/study/study.py --quick --work study/quick
	$(BIN)/python benchmarks/study/evaluate.py study/quick
	$(BIN)/python benchmarks/study/tables.py study/quick --results study/quick/page --command 'make study-quick'

study-small: $(READY)
	$(BIN)/python -m pip install --quiet -c constraints.txt -e '.[dev,study]'
	$(BIN)/python benchmarks/study_small.py --work study/small

study-scores: $(READY)
	$(BIN)/python -m pip install --quiet -c constraints.txt -e '.[dev,study]'
	$(BIN)/python benchmarks/scores/study.py --work study/scores
	$(BIN)/python benchmarks/scores/tables.py study/scores

engine-students: $(READY)
	$(BIN)/python benchmarks/engine_students.py --work engine-students --page docs/results/engine_students.md

# Each of our paths beside its peers and its limits; PEERS=folder as benchmarks/engine_peers.py says, SIZE=--quick or --full.
benchmarks: $(READY)
	$(BIN)/python benchmarks/table.py $(SIZE) $(if $(PEERS),--peers $(PEERS)) $(if $(PAGE),--page $(PAGE))

study-text: $(READY)
	$(BIN)/python -m pip install --quiet -c constraints.txt -e '.[dev,study]'
	$(BIN)/python benchmarks/text_changes.py --work study/text

conformance: $(READY)
	$(BIN)/python -m pip install --quiet -c constraints.txt -e '.[dev,gguf]'
	$(BIN)/python benchmarks/conformance/run.py --work conformance

engine-levels: $(READY)
	mkdir -p build
	$(BIN)/python benchmarks/engine_levels.py --rows build/engine-levels.jsonl
	cp docs/results/engine_levels.md build/engine-levels.md
	$(BIN)/python benchmarks/engine_levels.py --rows build/engine-levels.jsonl --page build/engine-levels.md

$(READY): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "wmark needs Python 3.11 or newer; found $$($(PYTHON) --version). Try: make PYTHON=python3.12"; exit 1; }
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt torch==2.13.0
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev]'
	touch $@

clean:
	rm -rf $(VENV) .venv-objects demo build *.egg-info
