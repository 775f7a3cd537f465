# make install   a virtual environment in .venv with everything in it
# make demo      a simulated survey, searched from end to end, in demo/
# make test      lint, then all tests
# make doc       the documentation, in build/doc/
# make lint      ruff, mypy, numpydoc
# make clean     remove all that the above have made

VENV := .venv
PYTHON := $(VENV)/bin/python
STAMP := $(VENV)/.installed

.DEFAULT_GOAL := install
.PHONY: install demo test doc lint clean

install: $(STAMP)

$(VENV)/pyvenv.cfg: .python-version
	python=$$(.ci/find-python) && $$python -m venv --clear $(VENV)

# Editable: other sources need no other installation.
$(STAMP): $(VENV)/pyvenv.cfg pyproject.toml constraints.txt
	.ci/pip-install $(PYTHON) -c constraints.txt -e '.[lint,test]'
	@touch $@

demo: install
	$(PYTHON) examples/demo.py

# Two processes, and one thread in each: more threads than cores are slower.
test: lint
	OMP_NUM_THREADS=1 NUMBA_NUM_THREADS=1 $(PYTHON) -m pytest -n 2 --dist loadfile

doc: install
	.ci/pip-install $(PYTHON) -c constraints.txt -e '.[doc]'
	$(PYTHON) -m sphinx -b html -W --keep-going --quiet doc build/doc
	@echo "Open build/doc/index.html"

lint: install
	$(PYTHON) -m ruff check .
	$(PYTHON) -m ruff format --check .
	$(PYTHON) -m mypy python/lsst/meas/tno examples benchmarks doc/_ext
	$(PYTHON) -m numpydoc lint $$(find python doc/_ext -name '*.py')

clean:
	rm -rf $(VENV) demo build dist python/*.egg-info .mypy_cache .pytest_cache .ruff_cache
	find python tests examples -name __pycache__ -prune -exec rm -rf {} +
