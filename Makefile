# msb: untrusted workloads in microVMs. `make help` explains every target.

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
MAKEFLAGS += --no-print-directory

# Where kernels, host images and root file systems are kept, by the hash of what they are made from.
export MSB_CACHE ?= $(or $(XDG_CACHE_HOME),$(HOME)/.cache)/msb
TARGET ?= $(or $(CARGO_TARGET_DIR),$(CURDIR)/target)
BIN := $(TARGET)/release
# Debian packages that the build and the tests need; each folder lists its own.
PACKAGES := $(shell sed 's/\#.*//' kernel/packages disk/packages image/packages msb/packages tests/kvmhost/packages tests/rootfs/packages tests/disks/packages bench/packages 2>/dev/null | sort -u)

##@ Use

.PHONY: run
run: build rootfs ## Set everything up, load a Debian image and run a command of it in a microVM
	@image=$$(tests/rootfs/image debian); \
	tests/with-kvm tests/rootfs/run "$(BIN)/msb" "$$image" debian:bookworm \
	    sh -c 'echo "Hello from $$(. /etc/os-release; echo $$PRETTY_NAME) on Linux $$(uname -r), process $$$$, in a microVM"'

.PHONY: install
install: build ## Install msb, its kernel and its initramfs below PREFIX (default /usr/local)
	install -D -m 0755 $(BIN)/msb $(DESTDIR)$(or $(PREFIX),/usr/local)/bin/msb
	install -D -m 0644 $(BIN)/vmlinux $(DESTDIR)$(or $(PREFIX),/usr/local)/share/msb/vmlinux
	install -D -m 0644 $(BIN)/initramfs.cpio $(DESTDIR)$(or $(PREFIX),/usr/local)/share/msb/initramfs.cpio

##@ Build

.PHONY: setup
setup: ## Install the Debian packages that are missing
	@missing=$$(comm -23 <(printf '%s\n' $(PACKAGES) | sort) \
	    <(dpkg-query -W -f '$${db:Status-Status} $${Package}\n' 2>/dev/null | sed -n 's/^installed //p' | sort)); \
	if [ -n "$$missing" ]; then \
	    sudo=; [ "$$(id -u)" = 0 ] || sudo=sudo; \
	    echo "installing" $$missing; \
	    $$sudo apt-get -qq -o DPkg::Lock::Timeout=300 update; \
	    DEBIAN_FRONTEND=noninteractive $$sudo apt-get -qq -y -o DPkg::Lock::Timeout=300 install $$missing >/dev/null; \
	fi
	@command -v cargo >/dev/null || { \
	    echo "error: cargo is missing" >&2; \
	    echo "  hint: install Rust 1.95 or later with rustup" >&2; exit 1; }

.PHONY: build
build: setup msb kernel initramfs ## Build msb, the guest kernel and the initramfs

.PHONY: msb
msb: ## Build the msb program
	@# Linked statically: the dynamic linker takes as long as most commands do.
	@cargo rustc --quiet --release --locked -p msb --bin msb -- -C target-feature=+crt-static

.PHONY: kernel
kernel: setup ## Build the guest kernel (3 minutes, then cached) and put it beside msb
	@mkdir -p $(BIN); kernel=$$(kernel/build); \
	cmp -s "$$kernel" $(BIN)/vmlinux || cp "$$kernel" $(BIN)/vmlinux

.PHONY: initramfs
initramfs: ## Build agentd and the initramfs that starts it, and put it beside msb
	@mkdir -p $(BIN); cpio=$$(initramfs/build); \
	cmp -s "$$cpio" $(BIN)/initramfs.cpio || cp "$$cpio" $(BIN)/initramfs.cpio

.PHONY: rootfs
rootfs: setup ## Build the root file systems of the demo and the tests (cached)
	@tests/rootfs/build busybox >/dev/null
	@tests/rootfs/build debian >/dev/null
	@tests/rootfs/build systemd >/dev/null

.PHONY: clean
clean: ## Remove what was built here, but not the cache
	cargo clean

##@ Check

.PHONY: test
test: build rootfs ## Run everything: style, unit tests, fuzz targets, end-to-end tests in real VMs
	@tests/all

.PHONY: unit
unit: ## Run the tests that need no VM
	cargo test --locked --workspace --exclude msb-tests

.PHONY: e2e
e2e: build rootfs ## Run the end-to-end tests in real VMs (TEST=name for some of them)
	tests/end-to-end $(TEST)

.PHONY: lint
lint: ## Check formatting, lints, licences and dependencies
	tests/lint

.PHONY: fuzz
fuzz: ## Build the fuzz targets and run each for a few seconds (tests/fuzz TARGET SECONDS for longer)
	@tests/fuzz

.PHONY: bench
bench: build rootfs ## Measure msb, QEMU microvm and microsandbox and print tables
	@bench/run

.PHONY: fmt
fmt: ## Format the source code
	cargo fmt --all

##@ Help

.PHONY: help
help: ## Show this list
	@awk 'BEGIN { FS = ":.*## " } \
	    /^##@ / { printf "\n%s\n", substr($$0, 5) } \
	    /^[a-z0-9-]+:.*## / { printf "  make %-10s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)
