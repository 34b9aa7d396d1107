# Each command sets up what is missing first: an environment in .venv and, on Linux, a fast BLAS.
# GNU make 3.81, which macOS has, is enough.

VENV := .venv
PY := $(VENV)/bin/python
PIP := $(PY) -m pip --disable-pip-version-check
CUDA := $(or $(CUDA),$(wildcard $(VENV)/.cuda))

# PYTHON=... names the Python to make .venv with. macOS' own python3 is too old, so newer ones are looked for too.
PYTHONS := $(or $(PYTHON),python3 python3.14 python3.13 python3.12 python3.11)
PYTHON_IS := $(firstword $(PYTHONS))

# Installs a Debian package where that is ours to do: as root, where apt-get is there. False where it did not.
apt_install = [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null && export DEBIAN_FRONTEND=noninteractive \
	&& echo "setup: apt-get install $(1)" \
	&& { apt-get install -y $(1) >/dev/null 2>&1 || { apt-get update && apt-get install -y $(1); } >/dev/null 2>&1; }

BLAS := libopenblas0-pthread
FIND_BLAS = $(PY) -c 'import sys; from base_model.fast_cpu import HOW_TO_INSTALL, prepare_cpu; \
	sys.platform != "linux" or prepare_cpu() or sys.exit(print("setup:", HOW_TO_INSTALL) or 1)'

.PHONY: help serve demo test check bench prove setup clean install-service remove-service

help: ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-15s %s\n", $$1, $$2}' Makefile

serve: setup ## serve on 127.0.0.1:8000; options: make serve ARGS="--port 9000"
	$(PY) -m service $(ARGS)

demo: setup ## the whole loop on data/example: build, train, serve, reload, two replies side by side
	$(PY) -m training.demo

test: setup ## every test
	$(PY) -m pytest -q -n auto --maxprocesses 4

check: setup ## lint, format, types
	$(PY) -m ruff check
	$(PY) -m ruff format --check
	$(PY) -m mypy

bench: setup ## serving and training beside mlx-lm's own, memorisation, a million messages; writes docs/figures
	$(PY) -m benchmarks.bench

prove: setup ## reliability figures: kills, faults, overload, leaks; writes docs/figures
	$(PY) -m benchmarks.prove

setup: $(VENV)/.ready $(VENV)/.blas $(if $(CUDA),$(VENV)/.cuda) ## what the others need: PYTHON=... chooses the Python, CUDA=1 MLX for NVIDIA GPUs

UNIT := samevoice.service
UNITS = $(or $(XDG_CONFIG_HOME),$(HOME)/.config)/systemd/user
AGENT := org.samevoice.service
AGENTS = $(HOME)/Library/LaunchAgents
FILL_IN = sed 's|@PROJECT@|$(CURDIR)|g'
HAS_LAUNCHD = [ "$$(uname -s)" = Darwin ]
HAS_SYSTEMD = { command -v systemctl && systemctl --user show-environment; } >/dev/null 2>&1
NO_SUPERVISOR = { echo "service: neither launchd nor systemd --user is here. Have whatever keeps programs running run:"; \
	echo "service:   cd '$(CURDIR)' && .venv/bin/python -m service"; \
	echo "service: and start it anew when it ends with exit code 70 or by a signal, but not after 0, 1, 2 or 3"; exit 1; }

install-service: setup ## start the service now and at each login: launchd on macOS, systemd --user on Linux
	@case '$(CURDIR)' in *[\"\\\$$%\&\<\>\|]*) \
		echo "service: this folder's name has a character that unit files cannot hold: move the project"; exit 1;; esac
	@mkdir -p .samevoice adapters && chmod 700 .samevoice
	@if $(HAS_LAUNCHD); then \
		mkdir -p "$(AGENTS)" && $(FILL_IN) deploy/$(AGENT).plist >"$(AGENTS)/$(AGENT).plist" || exit 1; \
		launchctl bootout "gui/$$(id -u)/$(AGENT)" 2>/dev/null; \
		launchctl bootstrap "gui/$$(id -u)" "$(AGENTS)/$(AGENT).plist" || exit 1; \
		echo "service: installed; its log is .samevoice/service.log"; \
	elif $(HAS_SYSTEMD); then \
		mkdir -p "$(UNITS)" && $(FILL_IN) deploy/$(UNIT) >"$(UNITS)/$(UNIT)" && systemctl --user daemon-reload \
			&& systemctl --user enable $(UNIT) && systemctl --user restart $(UNIT) || exit 1; \
		echo "service: installed; its log: journalctl --user -u samevoice"; \
		echo "service: to have it run while nobody is logged in: loginctl enable-linger"; \
	else $(NO_SUPERVISOR); fi

remove-service: ## stop the service and do not start it at login any more; adapters and token stay
	@if $(HAS_LAUNCHD); then \
		launchctl bootout "gui/$$(id -u)/$(AGENT)" 2>/dev/null; rm -f "$(AGENTS)/$(AGENT).plist"; \
	elif $(HAS_SYSTEMD); then \
		systemctl --user disable --now $(UNIT) 2>/dev/null; rm -f "$(UNITS)/$(UNIT)"; systemctl --user daemon-reload; \
	else rm -f "$(UNITS)/$(UNIT)"; echo "service: neither launchd nor systemd --user is here: nothing runs"; fi

clean: ## remove the environment and all caches; messages, datasets and adapters stay
	rm -rf $(VENV) build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

$(PY):
	@for python in $(PYTHONS); do \
		"$$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && break; \
		python=; \
	done; \
	if [ -z "$$python" ]; then \
		version=$$("$(PYTHON_IS)" --version 2>/dev/null) || version=missing; \
		echo "setup: Python 3.11 or newer is needed; $(PYTHON_IS) is: $$version"; \
		echo "setup: install one (macOS: brew install python; Debian, Ubuntu: apt-get install python3 python3-venv)," \
			"or name one: make setup PYTHON=/path/to/python3.12"; \
		exit 1; \
	fi; \
	if ! "$$python" -c 'import ensurepip' 2>/dev/null; then \
		package=$$("$$python" -c 'import sys; print("python%d.%d-venv" % sys.version_info[:2])'); \
		{ $(call apt_install,$$package); } || { \
			echo "setup: $$python cannot make environments (no ensurepip); on Debian and Ubuntu: apt-get install $$package"; \
			exit 1; \
		}; \
	fi; \
	echo "setup: making $(VENV) with $$("$$python" --version)"; \
	"$$python" -m venv --clear $(VENV)

$(VENV)/.ready: pyproject.toml constraints.txt $(PY)
	@$(PIP) --version >/dev/null 2>&1 || $(PY) -m ensurepip >/dev/null
	@echo "setup: installing the packages that constraints.txt pins (a minute or two the first time)"
	@$(PIP) install -qq -c constraints.txt -e '.[dev]' || { \
		echo "setup: pip failed. MLX has wheels for macOS 14 and newer on Apple silicon (with an arm64 Python)," \
			"and for Linux on x86-64 and arm64 with glibc 2.35 and newer; this is: $$(uname -sm)"; \
		exit 1; \
	}
	@touch $@
	@echo "setup: done"

# MLX's CPU and CUDA builds own the same libmlx.so: the one put there last is the one that runs.
$(VENV)/.cuda: $(VENV)/.ready
	@echo "setup: installing MLX for CUDA 13 (large)"
	@$(PIP) install -qq -c constraints.txt -e '.[cuda]'
	@$(PIP) install -qq -c constraints.txt --force-reinstall --no-deps mlx-cuda-13
	@touch $@

# Tried once. Without it everything works, slowly; the programs say so again when they start.
$(VENV)/.blas: | $(VENV)/.ready
	@$(FIND_BLAS) >/dev/null || { \
		$(call apt_install,$(BLAS)); \
		$(FIND_BLAS) || true; \
	}
	@touch $@
