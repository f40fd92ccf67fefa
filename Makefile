# What people and .ci/run do with this project; `make help` lists it.

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := build
MAKEFLAGS += --no-print-directory

GOLANGCI_LINT_VERSION := 2.15.0
NFPM_VERSION := 2.43.0
CYCLONEDX_VERSION := 1.9.0
ACTIONLINT_VERSION := 1.7.7
GOTESTSUM_VERSION := 1.13.0
HELM_VERSION := 3.22.0
BENCHSTAT_VERSION := v0.0.0-20260908200009-22c9c6c9d4da

FUZZTIME ?= 10s
BINARY ?= sockstate_exporter
SOAKTIME ?= 1m
BENCH ?= .
BENCHCOUNT ?= 5
PKGS ?=

# The version: the tag, else the topmost release of the changelog and -dev.
VERSION ?= $(or \
	$(shell git describe --tags --match 'v[0-9]*' --dirty 2>/dev/null | sed 's/^v//'), \
	$(shell sed -nE 's/^[^0-9A-Za-z]+v?([0-9]+\.[0-9]+\.[0-9]+).*/\1-dev/p' CHANGELOG.md 2>/dev/null | head -n 1), \
	0.0.0-dev)
REVISION ?= $(shell git rev-parse HEAD 2>/dev/null)
BRANCH ?= $(shell git rev-parse --abbrev-ref HEAD 2>/dev/null)
# Of the commit, not of the build: the same source gives the same binary.
BUILD_DATE ?= $(shell git log -1 --format=%cd --date=format:%Y%m%d-%H:%M:%S 2>/dev/null)

version_pkg := github.com/prometheus/common/version
ldflags = -s -w \
	-X $(version_pkg).Version=$(VERSION) \
	-X $(version_pkg).Revision=$(REVISION) \
	-X $(version_pkg).Branch=$(BRANCH) \
	-X $(version_pkg).BuildDate=$(BUILD_DATE)

.PHONY: build
build: ## Build ./sockstate_exporter, static
	CGO_ENABLED=0 go build -trimpath -buildvcs=false -ldflags '$(ldflags)' -o '$(BINARY)' .

.PHONY: test
test: ## Run the tests; REQUIRE=all: none may be left out; PKGS='./netlinkdiag ./test/e2e': some, of either module
	@REQUIRE='$(REQUIRE)' bash .ci/test $(PKGS)

.PHONY: fuzz
fuzz: ## Run each fuzz target for FUZZTIME (10s)
	@bash .ci/fuzz '$(FUZZTIME)'

.PHONY: soak
soak: ## Put the exporter under each load of docs/reliability.md for SOAKTIME (1m) (root)
	SOCKSTATE_SOAK=$(SOAKTIME) go -C test test ./soak -count=1 -v -timeout 24h

.PHONY: test-long
test-long: soak ## Run what takes too long for every change: soak, 100,000 random binds, each diagnosis 100 times, 110 pods, the deb on a fresh Debian (mmdebstrap), all tests in the guests, fuzzing (root)
	SOCKSTATE_BINDRULE_CASES=100000 go test ./internal/bindrule -count=1 -timeout 24h
	SOCKSTATE_SITUATIONS_RUNS=100 go test ./internal/failures/situations -count=1 -v -run Diagnoses -timeout 24h
	SOCKSTATE_CONTAINERS_PODS=110 go -C test test ./containers -count=1 -v -run PodsThatAreGone -timeout 24h
	SOCKSTATE_FRESH_DEBIAN=1 go -C test test ./deploy -count=1 -v -run TestReleases/deb
	go run -C test ./kernelmatrix -long -env SOCKSTATE_BINDRULE_CASES=10000
	bash .ci/fuzz 1m

.PHONY: bench
bench: ## Measure against other tools, BENCHCOUNT (5) times, on up to a million sockets (root)
	for ((i = 0; i < $(BENCHCOUNT); i++)); do \
		go -C test test ./bench -run '^$$' -bench '$(BENCH)' -benchtime 2x -timeout 1h; \
	done | tee bench.out
	go run golang.org/x/perf/cmd/benchstat@$(BENCHSTAT_VERSION) -col /by bench.out

.PHONY: bench-against
bench-against: ## Compare scrapes with those of another build of the exporter: AGAINST=PATH (root)
	SOCKSTATE_BENCH_AGAINST='$(abspath $(AGAINST))' go -C test test ./bench -run '^$$' -bench Against -benchtime 20x -timeout 1h

.PHONY: bench-tracer
bench-tracer: ## Measure what the tracer costs system calls, here and in guests (root)
	go test ./internal/bpf/bindtrace -run '^$$' -bench Syscalls
	go run -C test ./kernelmatrix -kernel 6.1,6.12 -bench Syscalls ./internal/bpf/bindtrace

.PHONY: demo
demo: build ## Show a restart that fails, and what the exporter says (root, or user namespaces)
	@go run -C test ./demo "$$PWD/sockstate_exporter"

.PHONY: screenshots
screenshots: ## Take pictures of the pages into ./screenshots, and docs/ports.png anew (root, Chromium)
	mkdir -p screenshots
	SOCKSTATE_TEST_SCREENSHOTS='$(CURDIR)/screenshots' go -C test test ./exporter -count=1 -run 'InABrowser|TestPortsPageShowsTheStoryOfREADME'
	cp screenshots/readme.png docs/ports.png

# The same random binds each time: what fails is a change, and not a rare quirk of an old
# kernel that nobody has met yet. `make test` takes others each time, and so does
# `go run -C test ./kernelmatrix`.
.PHONY: test-kernels
test-kernels: ## Run the kernel tests on other kernels, in qemu: all but the slow ones, and on arm64 some
	go run -C test ./kernelmatrix -j 1 -env SOCKSTATE_BINDRULE_SEED=1 -env SOCKSTATE_SITUATIONS_RUNS=1

.PHONY: release
release: release-tools ## Write tarballs, packages, SBOMs and checksums to ./dist: HOMEPAGE and MAINTAINER are fields of the packages
	PATH="$$PATH:$$(go env GOPATH)/bin" VERSION='$(VERSION)' HOMEPAGE='$(HOMEPAGE)' MAINTAINER='$(MAINTAINER)' bash deploy/release dist

.PHONY: release-tools
release-tools: ## Install what builds packages and SBOMs, unless it is there
	@export PATH="$$PATH:$$(go env GOPATH)/bin"; \
	if [[ $$(nfpm --version 2>/dev/null) != *$(NFPM_VERSION)* ]]; then \
		GOFLAGS= go install github.com/goreleaser/nfpm/v2/cmd/nfpm@v$(NFPM_VERSION); \
	fi; \
	if [[ $$(cyclonedx-gomod version 2>/dev/null) != *$(CYCLONEDX_VERSION)* ]]; then \
		GOFLAGS= go install github.com/CycloneDX/cyclonedx-gomod/cmd/cyclonedx-gomod@v$(CYCLONEDX_VERSION); \
	fi

.PHONY: generate
generate: ## Write the generated files anew
	go generate ./...
	go -C test generate ./...
	$(MAKE) manifests

chart := deploy/helm/sockstate-exporter
template := helm template sockstate-exporter $(chart) --set-string image.repository=sockstate_exporter
# Without what Helm writes of itself, and without the namespace, which is that of kubectl.
plain := sed -E '/^ *helm.sh\/chart:/d; /^ *app.kubernetes.io\/managed-by: Helm$$/d; /^  namespace: /d'

.PHONY: manifests
manifests: helm ## Write what the chart has of alerts and dashboards, and the plain manifests made from it
	rm -rf $(chart)/files
	mkdir -p $(chart)/files/dashboards
	cp alerts/sockstate.rules.yml $(chart)/files/
	cp dashboards/*.json $(chart)/files/dashboards/
	$(template) | $(plain) >deploy/kubernetes/sockstate_exporter.yaml
	$(template) --set podMonitor.enabled=true --show-only templates/podmonitor.yaml | $(plain) >deploy/kubernetes/podmonitor.yaml

.PHONY: rules
rules: helm ## Print the rules with your addresses and thresholds: RUNBOOK_URL, GRAFANA_URL, VALUES (a file for the chart)
	@$(template) $(if $(VALUES),--values '$(VALUES)') --set prometheusRule.enabled=true \
		$(if $(RUNBOOK_URL),--set-string 'runbookUrl=$(RUNBOOK_URL)') $(if $(GRAFANA_URL),--set-string 'grafanaUrl=$(GRAFANA_URL)') \
		--show-only templates/prometheusrule.yaml | sed -n '/^spec:$$/,$$ s/^  //p'

.PHONY: dashboards
dashboards: ## Write the dashboards with your address of the runbooks into a folder: RUNBOOK_URL, DIR
	@url='$(or $(RUNBOOK_URL),$(error RUNBOOK_URL is missing: the address where docs/runbooks is served))'; \
	dir='$(or $(DIR),$(error DIR is missing: the folder that Grafana reads dashboards from))'; \
	mkdir -p "$$dir"; \
	for file in dashboards/*.json; do \
		text=$$(<"$$file"); \
		printf '%s\n' "$${text//'https://runbooks.example.com'/"$$url"}" >"$$dir/$${file##*/}"; \
	done

.PHONY: lint
lint: lint-format lint-modules lint-sizes lint-vet lint-rename lint-go lint-shell lint-workflows lint-chart ## Run all linters

.PHONY: lint-format
lint-format:
	@files=$$(gofmt -l .); \
	if [[ -n $$files ]]; then printf 'not formatted by gofmt:\n%s\n' "$$files"; exit 1; fi

.PHONY: lint-modules
lint-modules:
	go mod tidy -diff
	go -C test mod tidy -diff
	bash .ci/modules

.PHONY: lint-sizes
lint-sizes:
	bash .ci/sizes

.PHONY: lint-vet
lint-vet:
	go vet ./...
	go -C test vet ./...

.PHONY: lint-rename
lint-rename:
	bash .ci/rename-module --try

.PHONY: lint-go
lint-go:
	golangci-lint config verify
	golangci-lint run
	cd test && golangci-lint run

.PHONY: lint-shell
lint-shell:
	@git ls-files --cached --others --exclude-standard | while read -r file; do \
		if [[ -f $$file ]] && head -n 1 "$$file" | grep -qaE '^#!.*\b(ba)?sh\b'; then printf '%s\0' "$$file"; fi; \
	done | xargs -0 shellcheck

.PHONY: lint-workflows
lint-workflows:
	actionlint

.PHONY: actionlint
actionlint: ## Install the linter of the workflows, unless it is there
	@if [[ $$(actionlint --version 2>/dev/null) != *$(ACTIONLINT_VERSION)* ]]; then \
		GOFLAGS= go install github.com/rhysd/actionlint/cmd/actionlint@v$(ACTIONLINT_VERSION); \
	fi

.PHONY: lint-chart
lint-chart:
	@for values in $(chart)/ci/*-values.yaml; do helm lint --strict --quiet $(chart) --values "$$values"; done

# As built here, Helm does not know the last part of its version.
.PHONY: helm
helm: ## Install what renders the chart, unless it is there
	@if [[ $$(helm version --short 2>/dev/null) != v$(basename $(HELM_VERSION))* ]]; then \
		GOFLAGS= go install helm.sh/helm/v3/cmd/helm@v$(HELM_VERSION); \
	fi

.PHONY: golangci-lint
golangci-lint: ## Install the linter of .ci/run, unless it is there
	@if [[ $$(golangci-lint version --short 2>/dev/null) != $(GOLANGCI_LINT_VERSION) ]]; then \
		GOFLAGS= go install github.com/golangci/golangci-lint/v2/cmd/golangci-lint@v$(GOLANGCI_LINT_VERSION); \
	fi

.PHONY: gotestsum
gotestsum: ## Install what sums up `make test`, unless it is there
	@if [[ $$(gotestsum --version 2>/dev/null) != *$(GOTESTSUM_VERSION)* ]]; then \
		GOFLAGS= go install gotest.tools/gotestsum@v$(GOTESTSUM_VERSION); \
	fi

.PHONY: clean
clean: ## Remove what `make build` made
	rm -f sockstate_exporter

.PHONY: help
help: ## List the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-14s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)
