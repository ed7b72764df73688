# make demo: train, evaluate and run an FCN-8s on the built-in dataset.   make test: the whole test suite.
# make check: lint, the walls between modules and the fast tests, for whoever works on the code.
# make audit: asks the package index for known holes in the pinned versions.
PYTHON ?= python3
BIN := .venv/bin

# Two folders, so that a second demo starts where the first one ended: nothing is made or trained twice.
DEMO_DATA := data/shapes
DEMO_RUN := runs/shapes-demo
DEMO_EXPECTED := 55 to 58 %

.PHONY: demo test check lint audit clean
demo: .venv/demo-ready
	$(BIN)/python train.py --flagfile=demo.flags --data_dir=$(DEMO_DATA) --run_dir=$(DEMO_RUN)
	$(BIN)/python evaluate.py --ckpt=$(DEMO_RUN)
	$(BIN)/python -m datasets.export --dataset=shapes --split=val --output_dir=$(DEMO_RUN)/photos --count=6
	$(BIN)/python inference.py --ckpt=$(DEMO_RUN) --output_dir=$(DEMO_RUN)/predictions $(DEMO_RUN)/photos
	@echo "image | truth | prediction: $(DEMO_RUN)/examples-val.png; confusion matrix: $(DEMO_RUN)/confusion-val.png"
	@echo "overlays: $(DEMO_RUN)/predictions; metrics: $(DEMO_RUN)/metrics-val.json"
	@echo "mean IoU to expect: $(DEMO_EXPECTED) (another machine rounds differently, and so trains differently)"

test: .venv/test-ready
	$(BIN)/python -m pytest -q --durations=10 -n 2 --dist worksteal

check: lint
	$(BIN)/python -m pytest -q -m fast -n 2 --dist worksteal

lint: .venv/test-ready
	$(BIN)/ruff check .

audit: .venv/test-ready
	$(BIN)/python -m utils.studies.audit

.venv/demo-ready: requirements.txt
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --requirement requirements.txt
	touch $@

.venv/test-ready: $(wildcard requirements-*.txt) .venv/demo-ready
	$(BIN)/python -m pip install --quiet --requirement requirements-dev.txt
	-$(BIN)/python -m pip install --quiet --requirement requirements-crf.txt  # built here; its tests skip without it
	-$(BIN)/python -m pip install --quiet --requirement requirements-video.txt  # the same
	-$(BIN)/python -m pip install --quiet --requirement requirements-serve.txt  # the same
	-$(BIN)/python -m pip install --quiet --requirement requirements-browser.txt  # the same; they need a Chromium too
	-$(BIN)/python -m pip install --quiet --requirement requirements-export.txt  # the same
	touch $@

clean:
	rm -rf .venv dist fcn_googlenet.egg-info
