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
	@cmake --build $(BUILD) --target specs nullbroker peer
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
	spec/interop/pprof $(BUILD)/mxrun
	spec/interop/flame_page $(BUILD)/mxrun
	! command -v prometheus || spec/interop/prometheus $(BUILD)/mxrun
	SCALE=$(SCALE) spec/fault/matrix --mxrun $(BUILD)/mxrun
	@$(MAKE) -s fuzz

# Packages: spec/packages lists them; the first lines to build and run, then to test, to fuzz, to make a .deb.
setup-run:
	@dpkg -s $$(sed -n '2p' spec/packages) >/dev/null 2>&1 || { $(SUDO) apt-get update -q && $(SUDO) env $(APT) $$(sed -n '2p' spec/packages); } >/tmp/mxrun-setup.log 2>&1 || { tail -20 /tmp/mxrun-setup.log; exit 1; }
setup-test: setup-run
	@dpkg -s $$(sed -n '4p' spec/packages) >/dev/null 2>&1 || { [ -e /usr/sbin/policy-rc.d ] || { printf '#!/bin/sh\nexit 101\n' | $(SUDO) tee /usr/sbin/policy-rc.d && $(SUDO) chmod +x /usr/sbin/policy-rc.d; }; $(SUDO) apt-get update -q && $(SUDO) env $(APT) $$(sed -n '4p' spec/packages); } >/tmp/mxrun-setup.log 2>&1 || { tail -20 /tmp/mxrun-setup.log; exit 1; }
setup-deb: setup-run
	@dpkg -s $$(sed -n '8p' spec/packages) >/dev/null 2>&1 || { $(SUDO) apt-get update -q && $(SUDO) env $(APT) $$(sed -n '8p' spec/packages); } >/tmp/mxrun-setup.log 2>&1 || { tail -20 /tmp/mxrun-setup.log; exit 1; }
setup-fuzz: setup-run
	@dpkg -s $$(sed -n '6p' spec/packages) >/dev/null 2>&1 || { $(SUDO) apt-get update -q && $(SUDO) env $(APT) $$(sed -n '6p' spec/packages); } >/tmp/mxrun-setup.log 2>&1 || { tail -20 /tmp/mxrun-setup.log; exit 1; }

bench-null bench-rabbit bench-latency: bench-%: all bench-programs
	spec/bench/compare $* --build $(BUILD)
# mxrun beside the clients that packages of Debian have, those that are there, on a broker without queues and on RabbitMQ.
bench-peers: setup-test all bench-programs
	spec/bench/peers/run --build $(BUILD) --markdown $(BUILD)/bench-peers.md $(PEERS_FLAGS)
# The table of workloads as Markdown and as a page, on mem:// and on BENCHMARK_URL, by default a private RabbitMQ.
BENCHMARK_TIME ?= 10
BENCHMARK_URL ?=
OUTPUT_DIR ?= $(BUILD)
benchmark-suite: all
	@BENCHMARK_URL='$(BENCHMARK_URL)' spec/bench/suite $(BUILD)/mxrun $(OUTPUT_DIR) $(BENCHMARK_TIME:s=)
# Both, into docs/PERFORMANCE.md.
bench-docs: bench-peers benchmark-suite
	spec/bench/insert docs/PERFORMANCE.md peers $(BUILD)/bench-peers.md
	spec/bench/insert docs/PERFORMANCE.md suite $(OUTPUT_DIR)/benchmark-suite.md
bench-mem: all
	spec/bench/mem $(BUILD)/mxrun
# What a memory limit costs when a backlog is larger than it.
bench-backlog: all
	spec/bench/backlog $(BUILD)/mxrun
# What a policy costs, and what batches gain.
bench-batch: all
	spec/bench/batch $(BUILD)/mxrun
# How what the account of memory says compares with what the kernel says.
bench-account: all
	$(BUILD)/mxrun -u $(or $(MXRUN_URLS),mem://) spec/bench/account.lua
# What profiles cost, in processor time; what metrics and the account of memory do, beside a build without.
bench-profile: all bench-programs
	spec/bench/cost $(BUILD)/mxrun
bench-measuring: all bench-programs
	@cmake -B build-unmeasured -G Ninja -DMX_UNMEASURED=ON >/dev/null && cmake --build build-unmeasured --target mxrun
	spec/bench/cost $(BUILD)/mxrun --unmeasured build-unmeasured/mxrun
bench-programs: $(BUILD)/build.ninja
	@cmake --build $(BUILD) --target nullbroker peer

# Profiles of the same workloads, below profiles/; analyze-profiles shows the top of all that are there.
profile-memory: all
	spec/bench/profiles $(BUILD)/mxrun heap unique json closure
profile-cpu: all
	spec/bench/profiles $(BUILD)/mxrun cpu unique json closure
profile-comprehensive: all
	spec/bench/profiles $(BUILD)/mxrun cpu,heap,wait unique json closure
profile-benchmarks: all
	spec/bench/profiles $(BUILD)/mxrun cpu,heap constant unique 256 1024 json loop closure raise
analyze-profiles: all
	@spec/bench/profiles $(BUILD)/mxrun analyze
clean-profiles:
	rm -rf profiles
.PHONY: profile-memory profile-cpu profile-comprehensive profile-benchmarks analyze-profiles clean-profiles

orders: all
	spec/bench/orders.py --mxrun $(BUILD)/mxrun

docs:
	luajit docs/reference.lua docs/meta/mx.lua >docs/api.md
lint:
	luacheck -q scripts examples spec docs/*.lua
	clang-format --dry-run -Werror $$(git ls-files '*.c' '*.h' | grep -v abi.h)

install: all
	@cmake --build $(BUILD) --target manual
	cmake --install $(BUILD)
# A package of its own prefix, so a build of its own: build-deb/mxrun_VERSION_ARCH.deb
deb: setup-deb
	@cmake -B build-deb -G Ninja -DCMAKE_INSTALL_PREFIX=/usr $(CMAKE_FLAGS) >/dev/null && cmake --build build-deb --target mxrun manual
	cd build-deb && umask 022 && cpack
	spec/package build-deb/mxrun_*.deb
clean:
	rm -rf $(BUILD) build-asan build-fuzz build-deb build-unmeasured

.PHONY: bench-profile bench-measuring all run test fuzz torture setup-fuzz setup-run setup-test setup-deb bench-null bench-rabbit bench-latency bench-mem bench-backlog bench-programs orders docs lint install deb clean bench-peers benchmark-suite bench-docs bench-batch bench-account
