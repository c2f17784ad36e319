# make demo | test | parity | check: each works on a machine that has only Python >= 3.11, make and git.
# make runtimes: old runtimes in environments of their own, below .runtimes; it needs Python 3.9 to 3.11.
# make phone: profiles on a virtual phone, in .phone; it needs what make arm needs. make runner: ekrun.
# make arm: ARM cores under emulation, in .arm; it needs Linux on x86-64, gcc, apt-get and dpkg-deb.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
ON ?= onnxruntime,litert
ALL := onnxruntime,onnxruntime:1.15.0,litert,tflite-runtime:2.14.0
JOBS ?= 2
PIP := $(BIN)/python -m pip install --disable-pip-version-check -q -c constraints.txt

OLD_PYTHON ?= $(firstword $(foreach each,python3.11 python3.10 python3.9 python3,$(shell \
	$(each) -c 'import sys; assert (3, 9) <= sys.version_info < (3, 12)' 2>/dev/null && echo $(each))))
ENVIRONMENTS := $(patsubst runtime_tests/environments/%.txt,.runtimes/%/.made,$(wildcard runtime_tests/environments/*.txt))

export ORT_DISABLE_TELEMETRY := 1
export EDGEKRON_RUNTIMES ?= $(CURDIR)/.runtimes

export EDGEKRON_ARM ?= $(CURDIR)/.arm

.PHONY: demo test parity check runtimes arm runner phone clean

demo: $(VENV)/.all
	$(BIN)/edgekron demo

# ON: the runtimes; make test ON='$(ALL)' after make runtimes takes all four.
test: $(VENV)/.dev
	$(BIN)/python -m pytest edgekron devices tests runtime_tests --runtimes $(ON) -n $(JOBS) --dist loadgroup

# The whole matrix: hours, resumed where it stopped; ends in build/parity/report.html.
parity: $(VENV)/.dev runtimes
	$(BIN)/python -m pytest runtime_tests --full --runtimes $(ALL) -n $(JOBS) --dist loadgroup -o console_output_style=count

check: $(VENV)/.dev
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

runtimes: $(ENVIRONMENTS)

.runtimes/%/.made: runtime_tests/environments/%.txt
	@test -n "$(OLD_PYTHON)" || { echo "$*: found no Python 3.9 to 3.11: make runtimes OLD_PYTHON=/path/to/python"; exit 1; }
	$(OLD_PYTHON) -m venv $(@D)
	$(@D)/bin/python -m pip install --disable-pip-version-check -q --no-deps --only-binary :all: -r $<
	touch $@

# The C runner of onnxruntime for devices without Python: TARGET is host, aarch64 or android.
TARGET ?= host
runner:
	mkdir -p build
	PYTHON=$(PYTHON) sh devices/edgekron_adb/runner/build.sh $(TARGET) build/ekrun-$(TARGET)

# Whether the kernel allows it is asked first; if not, the tests are skipped with the reason.
phone: $(VENV)/.dev
	if sh devices/phone/allowed.sh; then $(MAKE) .phone/.made; fi
	EDGEKRON_PHONE=$(CURDIR)/.phone $(BIN)/python -m pytest tests/edgekron_adb/test_phone.py -v

.phone/.made: $(wildcard devices/phone/* devices/edgekron_adb/runner/*)
	rm -rf .phone
	PYTHON=$(CURDIR)/$(BIN)/python sh devices/phone/build.sh .phone
	touch $@

# ARM cores under emulation, for --device qemu:CORE, and the proof on them: minutes. See devices/README.md.
arm: $(VENV)/.dev
	sh devices/edgekron_qemu/arm/make.sh '$(EDGEKRON_ARM)' $(BIN)/python edgekron/worker.py
	$(BIN)/python -m pytest tests/edgekron_qemu

clean:
	rm -rf $(VENV) .runtimes .arm .arm.partial .phone .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache build dist

$(VENV)/.python:
	$(PYTHON) -c 'import sys; assert sys.version_info >= (3, 11), "edgekron needs Python 3.11 or newer"'
	$(PYTHON) -m venv $(VENV)
	$(PIP) torch
	touch $@

$(VENV)/.all: $(VENV)/.python pyproject.toml constraints.txt
	$(PIP) -e '.[all]'
	touch $@

$(VENV)/.dev: $(VENV)/.all
	$(PIP) -e '.[dev]'
	touch $@
