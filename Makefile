# SPDX-License-Identifier: GPL-2.0-or-later
#
# Each target is a script; see docs/build.md. `make help` prints what follows "##".
#
#   QEMU_SRC=DIR      graft a copy of this QEMU 10.0 tree instead of Debian's
#   DESTDIR, PREFIX   where install puts things (PREFIX is /usr/local if not given)
#   SUITES="A B"      what check runs (all suites if not given)
#   RELEASES, TARGETS what check-debian runs (12 and 13; demo and check if not given)
#   CASES="A B"       what check-asan, check-libvirt and faults run (all cases if not given)
#   SOAK="--seed 7"   what soak is told, see tests/guest/soak --help
#   BENCH="--quick"   what bench is told, see tests/bench/all --help

PREFIX ?= /usr/local
export QEMU_SRC

.PHONY: help build setup demo check check-asan faults soak model check-upstream check-libvirt
.PHONY: check-debian bench lint coverage mutate format install deb clean

build: setup ## build QEMU with Ferry: build/qemu-system-x86_64 and build/qemu-img
	@scripts/build-qemu

setup: ## install the Debian packages that are missing, as root or through sudo -n
	@scripts/setup

demo: build ## build, then migrate a working guest and print what it cost
	@scripts/demo

check: setup ## build, then run every test suite, or SUITES="unit qtest"
	@scripts/check $(SUITES)

check-asan: setup ## run the qtest suite on a QEMU with AddressSanitizer and UBSan
	@scripts/check --asan $(CASES)

faults: setup ## walk every fault point with every fault in every mode: hours
	@scripts/walk-faults $(CASES)

model: setup ## check the model of the hand-off deeper than make check does: minutes, 3 GiB
	@tests/model/run --deep

check-upstream: setup ## compare QEMU's own migration tests on stock QEMU and on Ferry
	@scripts/check-upstream

soak: build ## migrate guests 3,000 times, in every way and whatever happens to them: hours
	@tests/guest/soak --migrations 3000 --json build/soak.json $(SOAK)

check-libvirt: build ## migrate domains of libvirt in every way that the tests know
	@tests/libvirt/run $(CASES)

check-debian: ## run demo and check in bare chroots of Debian 12 and 13
	@scripts/check-debian $(RELEASES) $(TARGETS)

bench: build ## measure for some hours, or minutes with BENCH=--quick
	@tests/bench/all $(BENCH)

lint: build ## build, then look at every file; changes none
	@scripts/lint

coverage: setup ## print which lines of the engine the unit tests run
	@scripts/setup gcovr
	@scripts/coverage

mutate: setup ## put faults into the engine, one at a time, and list those that no unit test notices
	@scripts/mutate

format: setup ## put C into shape with clang-format
	@scripts/lint --format

install: build ## install both programs below $(DESTDIR)$(PREFIX)
	install -D -m 755 build/qemu-system-x86_64 $(DESTDIR)$(PREFIX)/bin/qemu-system-x86_64
	install -D -m 755 build/qemu-img $(DESTDIR)$(PREFIX)/bin/qemu-img

deb: build ## make a Debian package that takes the place of qemu-system-x86
	@scripts/make-deb

help: ## print this list
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/\1|\2/p' $(MAKEFILE_LIST) | while IFS='|' read -r name text; do \
	    printf '  make %-15s %s\n' "$$name" "$$text"; done

clean: ## remove build/; the cache in ~/.cache/ferry stays
	rm -rf build
