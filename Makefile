# SPDX-License-Identifier: GPL-2.0-or-later
#
# Each target is a script; see docs/build.md.
#
#   QEMU_SRC=DIR      graft a copy of this QEMU 10.0 tree instead of Debian's
#   DESTDIR, PREFIX   where install puts things (PREFIX is /usr/local if not given)
#   SUITES="A B"      what check runs (all suites if not given)
#   CASES="A B"       what check-asan and check-libvirt run (all cases if not given)
#   BENCH="--quick"   what bench is told, see tests/bench/all --help

PREFIX ?= /usr/local
export QEMU_SRC

.PHONY: build setup demo check check-asan check-upstream check-libvirt bench lint coverage format install deb clean

build: setup
	@scripts/build-qemu

setup:
	@scripts/setup

demo: build
	@scripts/demo

check: setup
	@scripts/check $(SUITES)

check-asan: setup
	@scripts/check --asan $(CASES)

check-upstream: setup
	@scripts/check-upstream

check-libvirt: build
	@tests/libvirt/run $(CASES)

bench: build
	@tests/bench/all $(BENCH)

lint: build
	@scripts/lint

coverage:
	@scripts/setup gcovr
	@scripts/coverage

format: setup
	@scripts/lint --format

install: build
	install -D -m 755 build/qemu-system-x86_64 $(DESTDIR)$(PREFIX)/bin/qemu-system-x86_64
	install -D -m 755 build/qemu-img $(DESTDIR)$(PREFIX)/bin/qemu-img

deb: build
	@scripts/make-deb

clean:
	rm -rf build
