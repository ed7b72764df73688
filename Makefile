# make demo: train, evaluate and run an FCN-8s on the built-in dataset.   make test: the whole test suite.
# make check: lint, the walls between modules and the fast tests, for whoever works on the code.
# make audit: asks the package index for known holes in the pinned versions.
PYTHON ?= python3
BIN := .venv/bin

# Two folders, so that a second demo starts where the first one ended: nothing is made or trained twice.
DEMO_DATA := data/shapes
DEMO_RUN := runs/shapes-demo
DEMO_EXPECTED := 55 to 58 %

# Bytecode is made by all cores after the installation: pip makes it by one. Some packages have files of other Pythons.
INSTALL := $(BIN)/python -m pip install --quiet --no-compile
COMPILE := $(BIN)/python -m compileall -qq -j 0 .venv/lib || true
# Tests skip without these; browser needs a Chromium too, and crf a compiler.
OPTIONAL := crf video serve browser export
WHEELS := --find-links .venv/wheels --only-binary pydensecrf2

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

.venv/made:
	$(PYTHON) -m venv .venv
	touch $@

.venv/demo-ready: requirements.txt | .venv/made
	$(INSTALL) --requirement requirements.txt
	$(COMPILE)
	touch $@

.venv/wheels: requirements-crf.txt | .venv/made
	-$(BIN)/python -m pip wheel --quiet --no-deps --wheel-dir $@ --requirement requirements-crf.txt
	mkdir -p $@ && touch $@

# The CRF is built, which takes half a minute, while TensorFlow is installed.
.venv/test-ready: $(wildcard requirements*.txt)
	$(MAKE) --no-print-directory -j 2 .venv/demo-ready .venv/wheels
	$(INSTALL) --requirement requirements-dev.txt
	-for name in $(OPTIONAL); do $(INSTALL) $(WHEELS) --requirement requirements-$$name.txt; done
	$(COMPILE)
	touch $@

clean:
	rm -rf .venv dist fcn_googlenet.egg-info
