# Targets for people and for CI; the work is done by go and by scripts/.

# The drivers that test and golden use: with-driver.sh's names, the first with the validation layer in test.
# Package tests run on the system's device and on lavapipe 26.2, which alone has cooperative matrices without a GPU; kernels on
# the other drivers are the conformance suite's (make conform), which package vk is not.
DRIVERS = system lavapipe-22.3-sg4+vk lavapipe-26.2+short swiftshader+vk
GOLDEN = tests/testdata/golden
ARGS =

.PHONY: help need build test check demo generate golden conform matrix drivers clean

help:
	@echo "make demo       watch a mixture of experts learn to write, in three minutes at most (ARGS=... for vkmoe-demo's flags)"
	@echo "make test       test everything on the default device, then on other Vulkan drivers"
	@echo "make check      gofmt, vet, validate the SPIR-V and compare it with its sources"
	@echo "make build      build the commands into out/"
	@echo "make golden     compare with the reference outputs in $(GOLDEN) on each driver"
	@echo "make conform    run the conformance suite on every driver that can be had (CONFORM=... chooses; doc/conformance.md)"
	@echo "make matrix     make the support matrix anew from the reports in doc/conformance"
	@echo "make generate   compile the shaders (obtains glslang 16 where the system's is older)"
	@echo "make drivers    unpack the Vulkan drivers that tests run on into .drivers/"
	@echo "make need       install what the machine lacks: Vulkan loader and driver, headers for the window"
	@echo "make clean      remove what the other targets made, unpacked drivers and tools included"
	@echo
	@echo "DRIVERS=\"$(DRIVERS)\" chooses drivers for test and golden; see doc/drivers.md"

need:
	@scripts/need.sh

build: need
	@mkdir -p out
	go build -tags "$$(scripts/tags.sh)" -o out/ ./cmd/...

test: need
	@scripts/test.sh $(DRIVERS)

check: need
	@scripts/check.sh

demo: build
	@out/vkmoe-demo --out out --limit 150s $(ARGS)

generate:
	@scripts/glslang.sh
	go generate ./...

golden: build
	@status=0; for d in $(patsubst %+vk,%,$(DRIVERS:+short=)); do \
		echo "== $$d"; \
		scripts/with-driver.sh $$d out/vkmoe-conform golden $(GOLDEN) $(ARGS) || status=1; \
	done; exit $$status

# Which drivers and how: scripts/conform.sh's arguments; empty for all.
CONFORM =
conform: need
	@scripts/conform.sh $(CONFORM)

matrix: build
	@out/vkmoe-conform report --matrix --into README.md doc/conformance/*.json.gz

drivers:
	@scripts/drivers.sh

clean:
	rm -rf out .drivers .tools
