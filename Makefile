# make demo: pictures from words.  make test: the tests.  Either may be the first.
PYTHON ?= python3.11
VENV := .venv
BIN := $(VENV)/bin
QUIET := OMP_WAIT_POLICY=passive GOMP_SPINCOUNT=0

.PHONY: demo test test-web format train-avatars figures clean

demo: $(VENV)/ready
	$(BIN)/reverie generate \
	  "a smiling woman with long red hair and round glasses, blue hoodie, avataaars style" \
	  "a bald man with a beard, open peeps style" \
	  "green mohawk with a beard and sunglasses, micah style" \
	  "a sad girl with a purple bob, yellow shirt, pixel art style" \
	  --count 2 --seed 7 --out out/demo

$(VENV)/python: 
	$(PYTHON) -m venv $(VENV)
	touch $@

$(VENV)/ready: $(VENV)/python pyproject.toml constraints.txt
	$(BIN)/pip install --quiet --constraint constraints.txt --editable .
	touch $@

$(VENV)/tested: $(VENV)/ready
	$(BIN)/pip install --quiet --constraint constraints.txt --editable '.[test,metrics,data,control,studio]'
	$(BIN)/pip install --quiet --no-deps k-diffusion==0.1.1.post1  # only its sampling.py is loaded: no wandb, no older numpy
	touch $@

test: $(VENV)/tested
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2

test-web: $(VENV)/tested  ## the studio's page in a browser; needs Debian's chromium and npm (apt-get install chromium npm)
	command -v chromium >/dev/null || { echo "no chromium: apt-get install chromium"; exit 2; }
	$(BIN)/pip install --quiet --constraint constraints.txt --editable '.[web]'
	test -e build/axe/node_modules/axe-core || npm install --silent --no-save --prefix build/axe axe-core@4.14.1
	REVERIE_TEST_WEB=1 OMP_NUM_THREADS=1 $(BIN)/python -m pytest tests/test_studio_page*.py tests/test_studio_axe.py

format: $(VENV)/tested
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

train-avatars: $(VENV)/ready  ## what made the shipped model; hours on two cores
	$(QUIET) $(BIN)/reverie train avatars-words --out runs/avatars-words --resume
	$(QUIET) $(BIN)/reverie train avatars-enlarger --out runs/avatars-enlarger --resume
	$(QUIET) $(BIN)/reverie train avatars --wording runs/avatars-words/model.safetensors \
	  --codec runs/avatars-enlarger/model.safetensors --out runs/avatars --resume

figures: $(VENV)/ready  ## a figure of each task, drawn by the shipped model; minutes
	$(QUIET) $(BIN)/python bench/figures.py

clean:
	rm -rf $(VENV) build dist
