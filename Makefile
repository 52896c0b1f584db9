# The commands of the README; cmake does the work. make run and make test also do the set-up on a bare Debian 12.
BUILD ?= build
SUDO := $(shell [ "$$(id -u)" = 0 ] || echo sudo)
APT := DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends -o Dpkg::Use-Pty=0

all: $(BUILD)/build.ninja
	@cmake --build $(BUILD) --target mxrun

$(BUILD)/build.ninja: CMakeLists.txt
	@cmake -B $(BUILD) -G Ninja $(CMAKE_FLAGS) >/dev/null

run: setup-run
	@$(MAKE) -s all
	$(BUILD)/mxrun -u mem:// examples/hello.lua

test: setup-test
	@$(MAKE) -s all
	@cmake --build $(BUILD) --target specs
	@cmake -B build-asan -G Ninja -DMX_SANITIZE=ON >/dev/null && cmake --build build-asan --target mxrun specs
	@spec/run $(BUILD) build-asan

# What make test leaves out for its length: each fuzz target for FUZZ_SECONDS seconds, a million random tables.
FUZZ_SECONDS ?= 60
fuzz: setup-fuzz
	@cmake -B build-fuzz -G Ninja -DCMAKE_C_COMPILER=clang -DMX_SANITIZE=ON -DMX_FUZZ=ON >/dev/null && cmake --build build-fuzz --target fuzzers
	@spec/fuzz/run build-fuzz $(FUZZ_SECONDS)
# SCALE=1: the full number of faults, hours.
SCALE ?= 0.05
torture: setup-test all
	MXRUN=$(BUILD)/mxrun MXRUN_SPEC_TABLES=1000000 $(BUILD)/mxrun test spec/lua/fieldtable_spec.lua
	MXRUN=$(BUILD)/mxrun MXRUN_TIMES=100 $(BUILD)/mxrun test spec/cli/runaway_spec.lua
	@cmake --build $(BUILD) --target nth tls_spec
	spec/fault/nth $(BUILD)
	MXRUN_TIMES=20 $(BUILD)/tls_spec
	SCALE=$(SCALE) spec/fault/matrix --mxrun $(BUILD)/mxrun
	@$(MAKE) -s fuzz

# Packages: spec/packages lists them; the first lines to build and run, then to test, the last to fuzz.
setup-run:
	@dpkg -s $$(sed -n '2p' spec/packages) >/dev/null 2>&1 || { $(SUDO) apt-get update -q && $(SUDO) env $(APT) $$(sed -n '2p' spec/packages); } >/tmp/mxrun-setup.log 2>&1 || { tail -20 /tmp/mxrun-setup.log; exit 1; }
setup-test: setup-run
	@dpkg -s $$(sed -n '4p' spec/packages) >/dev/null 2>&1 || { [ -e /usr/sbin/policy-rc.d ] || { printf '#!/bin/sh\nexit 101\n' | $(SUDO) tee /usr/sbin/policy-rc.d && $(SUDO) chmod +x /usr/sbin/policy-rc.d; }; $(SUDO) apt-get update -q && $(SUDO) env $(APT) $$(sed -n '4p' spec/packages); } >/tmp/mxrun-setup.log 2>&1 || { tail -20 /tmp/mxrun-setup.log; exit 1; }
setup-fuzz: setup-run
	@dpkg -s $$(sed -n '6p' spec/packages) >/dev/null 2>&1 || { $(SUDO) apt-get update -q && $(SUDO) env $(APT) $$(sed -n '6p' spec/packages); } >/tmp/mxrun-setup.log 2>&1 || { tail -20 /tmp/mxrun-setup.log; exit 1; }

bench-null bench-rabbit bench-latency: bench-%: all bench-programs
	spec/bench/compare $* --build $(BUILD)
bench-mem: all
	spec/bench/mem $(BUILD)/mxrun
# What a memory limit costs when a backlog is larger than it.
bench-backlog: all
	spec/bench/backlog $(BUILD)/mxrun
bench-programs: $(BUILD)/build.ninja
	@cmake --build $(BUILD) --target nullbroker peer

orders: all
	spec/bench/orders.py --mxrun $(BUILD)/mxrun

docs:
	luajit docs/reference.lua docs/meta/mx.lua >docs/api.md
lint:
	luacheck -q scripts examples spec docs/reference.lua
	clang-format --dry-run -Werror $$(git ls-files '*.c' '*.h' | grep -v abi.h)

install: all
	cmake --install $(BUILD)
clean:
	rm -rf $(BUILD) build-asan build-fuzz

.PHONY: all run test fuzz torture setup-fuzz setup-run setup-test bench-null bench-rabbit bench-latency bench-mem bench-backlog bench-programs orders docs lint install clean
