# `make demo`: a running machine moves between two processes, without and with switchover-ack.
# `make test`: all tests. As root on Debian it also installs the QEMUs and the guest kernel.
# Both do all the set-up they need, in .venv and in the peers directory; `make help` lists the rest.

VENV   := .venv
PYTHON := $(VENV)/bin/python
PEERS  ?= $(or $(XDG_CACHE_HOME),$(HOME)/.cache)/switchover/peers
export SWITCHOVER_PEERS := $(PEERS)

# REQUIRE=1 makes a missing peer a failure instead of a skipped test.
PYTEST_FLAGS := $(if $(REQUIRE),--peers-required)

.PHONY: help demo demo-qemu test unit compat lint peers charts clean
.DEFAULT_GOAL := help

help:  ## what can be made
	@sed -n 's/^\([a-z-]*\):.*## /\1\t/p' $(MAKEFILE_LIST) | expand -t 12

# QEMU=1 takes a real QEMU in place of the built-in machine: that in PATH, or one of the peers.
demo: $(VENV)/installed  ## a running machine moves, without and with switchover-ack
	@$(if $(QEMU),command -v qemu-system-x86_64 >/dev/null || tools/peers "$(PEERS)" 10.0 || true)
	@$(VENV)/bin/switchover demo $(if $(QEMU),--qemu)

demo-qemu: $(VENV)/installed  ## a QEMU's guest is held by us and goes on in another QEMU
	@tools/peers "$(PEERS)" 10.0
	@$(PYTHON) tools/demo_qemu.py --peers-dir "$(PEERS)"

test: $(VENV)/installed lint  ## all tests; what is missing for some of them is said
	@tools/peers "$(PEERS)" || $(if $(REQUIRE),exit 1,true)
	$(PYTHON) tools/own_coverage.py
	$(PYTHON) -m pytest --peers-dir="$(PEERS)" $(PYTEST_FLAGS)

unit: $(VENV)/installed  ## the tests that need no QEMU
	$(PYTHON) -m pytest -m "not compat"

compat: $(VENV)/installed  ## the tests against real QEMUs
	@tools/peers "$(PEERS)"
	$(PYTHON) -m pytest -m compat --peers-dir="$(PEERS)" --peers-required

lint: $(VENV)/installed  ## format, lint and types
	$(VENV)/bin/ruff format --check --quiet
	$(VENV)/bin/ruff check --quiet
	$(VENV)/bin/mypy

peers:  ## install the QEMUs and the guest kernel (Debian, root)
	@tools/peers "$(PEERS)"

# pip of Debian 12 knows no dependency groups, hence the newer one.
$(VENV)/installed: pyproject.toml
	@python3 -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
	    || { echo "Python 3.11 or newer is needed, this is $$(python3 --version)" >&2; exit 1; }
	python3 -m venv $(VENV)
	$(PYTHON) -m pip install --quiet --disable-pip-version-check --upgrade 'pip>=25.1'
	$(PYTHON) -m pip install --quiet --disable-pip-version-check --editable . --group dev
	@touch $@

charts: $(VENV)/installed  ## measure what the pages' charts show, and draw them
	$(PYTHON) -m pip install --quiet --disable-pip-version-check --group charts
	$(VENV)/bin/switchover bench switchover-ack --json > $(VENV)/switchover-ack.json
	$(PYTHON) tools/draw_bench.py $(VENV)/switchover-ack.json docs/switchover-ack.svg
	$(VENV)/bin/switchover bench vfio-qemu --peers-dir "$(PEERS)" --json > $(VENV)/vfio-qemu.json
	$(PYTHON) tools/draw_bench.py $(VENV)/vfio-qemu.json docs/vfio-qemu.svg

clean:  ## remove what was made in this directory
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .hypothesis .coverage*
