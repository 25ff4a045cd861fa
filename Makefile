# SPDX-License-Identifier: MIT
# All commands of the project. `make` alone lists them.

PYTHON = .venv/bin/python
AS_ROOT = $(if $(filter 0,$(shell id -u)),--allow-root)
NO_BROWSER = $(if $(DISPLAY)$(WAYLAND_DISPLAY),,--no-browser)
OFFLINE = --LabApp.check_for_updates_class=jupyterlab.NeverCheckForUpdate --LabApp.news_url=None \
	--LabApp.extension_manager=readonly
# On a shared machine nobody else reads what is said to a kernel; without it every kernel warns here that they could.
PRIVATE = --KernelManager.transport_encryption=auto
# No run of the tests takes this long: one that does hangs.
LIMIT = timeout --foreground --kill-after=10

help: ## this list
	@sed -n 's/^\([a-z]*\):.*## /\1\t/p' Makefile | expand -t 12

lab: ## set everything up, then open the notebooks in JupyterLab (127.0.0.1, with a token)
	@binder/setup
	@$(PYTHON) -m pvmlab warm || { $(PYTHON) -m pvmlab doctor; exit 1; }
	@echo "[lab] JupyterLab starts. Open the address below, with its token; Ctrl-C twice ends it."
	@exec $(PYTHON) -m jupyterlab --ServerApp.ip=127.0.0.1 \
		--LabApp.default_url=/lab/tree/00-start-here.ipynb --log-level=WARN $(AS_ROOT) $(NO_BROWSER) $(OFFLINE) \
		$(PRIVATE) notebooks

test: ## is the image up to date, the notebooks, the tests
	@binder/setup lib/tests/apt.txt
	@$(PYTHON) vm-image/build check
	@failed=0; \
	for notebook in notebooks/*.ipynb; do \
		[ -e "$$notebook" ] || continue; \
		echo "[test] $$notebook"; \
		$(LIMIT) 600 .venv/bin/jupyter-execute --timeout=120 "$$notebook" || failed=1; \
	done; \
	[ $$failed = 0 ] || echo "[test] a notebook failed: see above"; \
	$(LIMIT) 2400 $(PYTHON) -m pytest -q -ra -o faulthandler_timeout=300 lib/tests && exit $$failed

doctor: ## what is missing here, and how to mend it
	@if [ -x $(PYTHON) ]; then $(PYTHON) lib/pvmlab/doctor.py; else python3 lib/pvmlab/doctor.py; fi

bench: ## the budgets, and the instructions of a fork on each kernel, as measured here (ARGS="--json --peers")
	@binder/setup
	@$(PYTHON) -m pvmlab bench $(ARGS)

site: ## run the course and write it as pages whose figures still step, into site/
	@binder/setup
	@$(PYTHON) -m pvmlab site site

review: ## run the course and write its verdicts as one page, site/review.html
	@binder/setup
	@$(PYTHON) -m pvmlab review site/review.html

stress: ## random operations on a kernel that checks itself (ARGS="--seconds 150 --seed 7 --kernel v3-debug")
	@binder/setup lib/tests/apt.txt
	@$(PYTHON) -m pvmlab stress $(ARGS)

selftests: ## the kernel's own mm selftests on the unpatched kernel, v2 and v3, compared (ARGS="cow mseal_test")
	@binder/setup vm-image/apt.txt vm-image/selftests-apt.txt
	@$(PYTHON) -m pvmlab selftests $(ARGS)

screenshots: ## photograph the standard figures in Chromium, light and dark (DIR=screenshots)
	@binder/setup lib/tests/apt.txt
	@$(PYTHON) -m pvmlab screenshots $(or $(DIR),screenshots)

image: ## build the kernels and the guest's programs, and write vm-image/prebuilt
	@vm-image/build image

reproduce: ## build the image again and compare it bit for bit
	@vm-image/build reproduce

patches: ## build and boot the kernel after every single patch (ARGS=v3/0016: from this one on)
	@binder/setup vm-image/apt.txt
	@$(PYTHON) vm-image/patches $(ARGS)

clean: ## remove what was built here (saved machines stay in ~/.cache/pvmlab)
	rm -rf site .venv .pytest_cache .hypothesis lib/.pytest_cache lib/.hypothesis lib/*.egg-info lib/build vm-image/work
	rm -f lib/pvmlab/_walk.*
	find lib notebooks -name __pycache__ -o -name .ipynb_checkpoints 2>/dev/null | while IFS= read -r d; do rm -rf "$$d"; done

.PHONY: help lab test doctor bench screenshots site review stress selftests image reproduce patches clean
