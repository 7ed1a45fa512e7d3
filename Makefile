# kubeforecaster. `make help` lists what there is.

GO       ?= go
VERSION  ?= $(shell git describe --tags --always --dirty 2>/dev/null || echo dev)
TOOLS    := $(CURDIR)/.cache/tools
IMAGE    ?= kubeforecaster:$(VERSION)
DATA     ?= ../shared/data
# The race detector needs a C compiler; Go turns cgo off where there is none.
RACE     := $(if $(filter 1,$(shell $(GO) env CGO_ENABLED)),-race)
LDFLAGS  := -s -w -X main.version=$(VERSION)

# Packages whose coverage must stay above COVERAGE_MIN per cent.
CORE         := ./forecaster ./forecaster/cnnlstm ./prom ./adapter ./weights
COVERAGE_MIN := 85

.DEFAULT_GOAL := help
.PHONY: help build demo test lint fmt vuln bench fuzz golden generate verify cover image weights ci clean

help: ## list the targets
	@awk -F':.*## ' '/^[a-z-]+:.*## / { printf "  %-10s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

build: ## build bin/kubeforecaster
	CGO_ENABLED=0 $(GO) build -trimpath -ldflags '$(LDFLAGS)' -o bin/kubeforecaster ./cmd/kubeforecaster

demo: build ## forecast a simulated cluster on an embedded Prometheus; Ctrl-C ends it
	./bin/kubeforecaster demo $(DEMO_FLAGS)

test: ## vet, then all tests under the race detector
	$(GO) vet ./...
	$(GO) test $(RACE) -timeout 20m ./...

# The tools are built from their own module, so that the product's go.mod does
# not know them.
$(TOOLS)/golangci-lint $(TOOLS)/gofumpt $(TOOLS)/govulncheck $(TOOLS)/benchstat &: tools/go.mod tools/go.sum
	mkdir -p $(TOOLS)
	$(GO) build -C tools -o $(TOOLS)/ tool
	touch $(TOOLS)/*

lint: $(TOOLS)/golangci-lint ## linters, the import rules among them
	$(TOOLS)/golangci-lint run ./...

fmt: $(TOOLS)/golangci-lint ## format the code
	$(TOOLS)/golangci-lint fmt ./...

vuln: $(TOOLS)/govulncheck ## known vulnerabilities that the code reaches (asks vuln.go.dev)
	$(TOOLS)/govulncheck ./...

bench: $(TOOLS)/benchstat ## benchmarks, summarised by benchstat
	$(GO) test -run '^$$' -bench . -benchmem -count $(or $(COUNT),6) ./... | tee bench.out
	$(TOOLS)/benchstat bench.out

fuzz: ## fuzz every decoder for FUZZTIME (30s)
	@grep -rl '^func Fuzz' --include '*_test.go' . | while read -r f; do \
		for name in $$(sed -n 's/^func \(Fuzz[A-Za-z0-9]*\).*/\1/p' $$f); do \
			$(GO) test -run '^$$' -fuzz "^$$name$$" -fuzztime $(or $(FUZZTIME),30s) ./$$(dirname $$f) || exit 1; \
		done; \
	done

golden: ## rewrite the golden files; read the diff before you commit it
	$(GO) test ./adapter ./cmd/kubeforecaster -run 'Golden|OpenAPI' -update

generate: build ## write docs/cli.md from the binary
	./bin/kubeforecaster docs > docs/cli.md

verify: generate ## fail when generated files or go.mod are not up to date
	$(GO) mod tidy -diff
	git diff --exit-code -- docs/cli.md

cover: ## coverage of the core packages, each above COVERAGE_MIN
	@$(GO) test -coverprofile coverage.out $(CORE) | tee coverage.txt
	@awk -v min=$(COVERAGE_MIN) '/coverage:/ { sub("%", "", $$5); if ($$5 + 0 < min) { print "below " min " %: " $$2; bad = 1 } } END { exit bad }' coverage.txt

image: ## build the container image
	docker build --build-arg VERSION=$(VERSION) -t $(IMAGE) .

weights: build ## train the base weights again from the load traces in DATA
	./bin/kubeforecaster train $(foreach f,$(sort $(filter-out %_sum_5min.csv.gz,$(wildcard $(DATA)/*/*.csv.gz))),--data $(f)) --out dist/weights
	cp dist/weights/base.safetensors weights/base.safetensors

ci: lint verify test ## all that CI runs

clean: ## remove what was built
	rm -rf bin dist .cache coverage.* bench.out
